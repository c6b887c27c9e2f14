//! Docker's API as relayer uses it, with a daemon that answers as the test says.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use super::image::{Codec, Image, Item, layer, small};
use super::tool::{self, relayer, said};

const VERSION: &str = r#"{"Version":"20.10.24","Components":[{"Name":"Engine"}]}"#;

/// The first line of each request, and its body.
type Requests = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A daemon on a socket. Its requests are kept, with their bodies.
struct Fake {
    dir: tempfile::TempDir,
    requests: Requests,
}

/// An answer with a body of known length.
fn answer(status: u16, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The same in chunks, after an answer that is none yet.
fn chunked(body: &[u8]) -> Vec<u8> {
    let mut out =
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    for chunk in body.chunks(1000) {
        out.extend(format!("{:x};x=y\r\n", chunk.len()).bytes());
        out.extend([chunk, b"\r\n"].concat());
    }
    out.extend(b"0\r\nTrailer: x\r\n\r\n");
    out
}

impl Fake {
    /// Starts a daemon. It answers a request for its version with `version`, any other with what
    /// `reply` writes; the body of a load is read if `reads`.
    fn start(
        version: Vec<u8>,
        reads: bool,
        reply: impl Fn(&mut UnixStream) -> std::io::Result<()> + Send + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("d.sock")).unwrap();
        let requests = Requests::default();
        let kept = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut lines = Vec::new();
                while lines.last().is_none_or(|line: &String| line != "\r\n") {
                    lines.push(String::new());
                    reader.read_line(lines.last_mut().unwrap()).unwrap();
                }
                let line = lines[0].trim().to_owned();
                let is_load = line.starts_with("POST");
                let body = if is_load && reads { body(&mut reader) } else { Vec::new() };
                kept.lock().unwrap().push((line.clone(), body));
                if line.starts_with("GET /version") {
                    let _ = stream.write_all(&version);
                } else {
                    // The other side may have closed the connection.
                    let _ = reply(&mut stream);
                }
            }
        });
        fs::write(dir.path().join("img.tar"), small().docker_new()).unwrap();
        Self { dir, requests }
    }

    fn new(reply: impl Into<Vec<u8>>) -> Self {
        let reply = reply.into();
        Self::start(answer(200, VERSION), true, move |stream| stream.write_all(&reply))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = relayer();
        let socket = format!("unix://{}", self.path("d.sock").display());
        command.args(args).env("DOCKER_HOST", socket).current_dir(&self.dir);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        tool::output(&mut self.command(args))
    }

    /// It fails with this message, and leaves nothing.
    fn fails(&self, args: &[&str], words: &str) {
        let out = self.run(args);
        assert!(
            out.status.code() == Some(tool::FAILED) && said(&out).contains(words),
            "{}",
            said(&out)
        );
        assert!(!self.path("out.tar").exists());
    }
}

/// Reads a body in chunks.
fn body(reader: &mut impl BufRead) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 {
            return body;
        }
        let size = usize::from_str_radix(line.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        if reader.read_exact(&mut chunk).is_err() {
            return body;
        }
        body.extend(&chunk[..size]);
        if size == 0 {
            return body;
        }
    }
}

const READ: [&str; 4] = ["copy", "docker-daemon:app:v1", "-q", "out.tar"];
const WRITE: [&str; 4] = ["copy", "img.tar", "-q", "docker-daemon:reg:5000/app"];

#[test]
fn an_image_is_read_from_docker() {
    for reply in [answer(200, small().docker_legacy()), chunked(&small().docker_new())] {
        let docker = Fake::new(reply);
        assert!(docker.run(&READ).status.success());
        tool::ok(&mut docker.command(&["verify", "out.tar", "img.tar"]));
        let digest = super::image::digest(b"x");
        for (name, asked) in
            [("a/b", "a/b:latest"), ("[::1]:5/a:b", "%5B::1%5D:5/a:b"), (&digest, &digest)]
        {
            docker.run(&["inspect", &format!("docker-daemon:{name}")]);
            let last = docker.requests.lock().unwrap().last().unwrap().0.clone();
            assert_eq!(last, format!("GET /images/{asked}/get HTTP/1.1"));
        }
    }
}

#[test]
fn an_image_is_loaded_into_docker() {
    let docker = Fake::new(chunked(b"{\"stream\":\"Loaded image: app\"}\r\n"));
    tool::ok(&mut docker.command(&WRITE));
    let (line, body) = docker.requests.lock().unwrap().pop().unwrap();
    assert_eq!(line, "POST /images/load?quiet=1 HTTP/1.1");
    fs::write(docker.path("sent.tar"), body).unwrap();
    assert_eq!(
        super::names::archive_names(&docker.path("sent.tar")),
        ["latest", "reg:5000/app:latest", "reg:5000/app:latest"]
    );
    tool::ok(&mut docker.command(&["verify", "img.tar", "sent.tar"]));
    // Without a word about compression, every docker can read it.
    tool::ok(&mut docker.command(&["split", "img.tar", "-q", "-o", "docker-daemon:app"]));
}

#[test]
fn what_docker_says_about_a_failure_is_shown() {
    let no_image = Fake::new(answer(404, r#"{"message":"No such image: app:v1"}"#));
    no_image.fails(&READ, "docker has no image app:v1; `docker images` lists");
    let broken = Fake::new(answer(500, r#"{"message":"no \u001b[31mspace"}"#));
    broken.fails(&READ, "status 500: no \\u{1b}[31mspace");
    broken.fails(&WRITE, "status 500: no \\u{1b}[31mspace");
    let refused = Fake::new(answer(
        200,
        "{\"stream\":\"x\"}\r\n{\"errorDetail\":{},\"error\":\"disk is full\"}\r\n",
    ));
    refused.fails(&WRITE, "docker could not load it: disk is full");
    let mut archive = small().docker_new();
    archive.truncate(archive.len() / 1024 * 512);
    archive.extend(b"{\"errorDetail\":{\"message\":\"x\"},\"error\":\"layer is corrupt\"}\r\n");
    Fake::new(chunked(&archive)).fails(&READ, "docker could not save it: layer is corrupt");
}

#[test]
fn a_refusal_in_the_middle_of_a_load_is_shown() {
    let docker = Fake::start(answer(200, VERSION), false, |stream| {
        stream.write_all(&answer(413, r#"{"message":"too large"}"#))
    });
    let noise: Vec<u8> =
        (0..8_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let image = Image::new(vec![layer(&[Item::file("noise", noise)])]);
    fs::write(docker.path("img.tar"), image.docker_new()).unwrap();
    docker.fails(&WRITE, "status 413: too large");
}

#[test]
fn what_is_no_valid_answer_is_an_error() {
    let archive = small().docker_new();
    let part = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    for (reply, words) in [
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "does not answer in HTTP but with \"SSH-2.0"),
        (b"HTTP/1.1 999 X\r\n\r\n".to_vec(), "does not answer in HTTP"),
        (b"HTTP/1.1 200 X\r\nno field\r\n\r\n".to_vec(), "a field of its answer is not valid"),
        (b"HTTP/1.1 200 X\r\nContent-Length: -1\r\n\r\n".to_vec(), "states a length of \"-1\""),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: gzip\r\n\r\n".to_vec(), "encoded as \"gzip\""),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(), "has size \"zz\""),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc".to_vec(), "does not end"),
        (b"HTTP/1.1 200 X".to_vec(), "ended its answer early"),
        (Vec::new(), "ended its answer early"),
        (part(answer(200, &archive)), "ended its answer early"),
        (part(chunked(&archive)), "ended its answer early"),
        (answer(200, "no archive"), "tar"),
    ] {
        Fake::new(reply).fails(&READ, words);
    }
    Fake::new(answer(200, "no json")).fails(&WRITE, "is not JSON");
    let odd = Fake::start(answer(200, "{}"), true, |_| Ok(()));
    odd.fails(&READ, "for its version: its answer is not valid");
}

#[test]
fn what_has_no_end_is_given_up() {
    let endless = |head: &'static str, part: &'static str| {
        Fake::start(answer(200, VERSION), true, move |stream| {
            stream.write_all(head.as_bytes())?;
            loop {
                stream.write_all(part.repeat(1000).as_bytes())?;
            }
        })
    };
    let head = "HTTP/1.1 200 OK\r\n";
    endless(head, "x: y\r\n").fails(&READ, "the head of its answer has more than 65536 bytes");
    endless("HTTP/1.1 200 ", "x").fails(&READ, "the head of its answer has more than");
    let docker = endless("HTTP/1.1 200 OK\r\n\r\n", "x");
    docker.fails(&[&READ[..], &["--max-size", "10MB"]].concat(), "--max-size allows more");
    docker.fails(&WRITE, "its answer has more than 1048576 bytes");
    endless("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n")
        .fails(&READ, "the head of its answer has more than");
}

#[test]
fn what_docker_would_refuse_is_told_before_it_is_sent() {
    let docker = Fake::new(answer(200, ""));
    fs::write(docker.path("zstd.tar"), small().docker_oci(Codec::Zstd)).unwrap();
    let zstd = ["copy", "zstd.tar", "docker-daemon:app", "-q"];
    docker.fails(
        &zstd,
        "docker 20.10.24 can't read zstd layers; use `relayer split --compression gzip`",
    );
    let layers = (0..126).map(|i| layer(&[Item::file(format!("{i}"), "")])).collect();
    fs::write(docker.path("many.tar"), Image::new(layers).docker_new()).unwrap();
    docker.fails(
        &["copy", "many.tar", "docker-daemon:app"],
        "at most 125 layers and the image has 126",
    );
    assert!(
        docker.requests.lock().unwrap().iter().all(|(line, _)| line.starts_with("GET /version"))
    );
    docker.fails(&["copy", "docker-daemon:app", "docker-daemon:app:latest"], "--force does that");
    for version in [
        r#"{"Version":"23.0.1","Components":[{"Name":"Engine"}]}"#,
        r#"{"Version":"4.3.1","Components":[{"Name":"Podman Engine"}]}"#,
        r#"{"Version":"dev"}"#,
    ] {
        let newer = Fake::start(answer(200, version), true, |s| s.write_all(&answer(200, "")));
        fs::write(newer.path("zstd.tar"), small().docker_oci(Codec::Zstd)).unwrap();
        tool::ok(&mut newer.command(&zstd));
    }
}

#[test]
fn without_docker_the_way_out_is_told() {
    let docker = Fake::new(Vec::new());
    let with_host = |args: &[&str], host: &str| {
        let out = tool::output(docker.command(args).env("DOCKER_HOST", host));
        assert_eq!(out.status.code(), Some(tool::FAILED));
        said(&out)
    };
    for args in [&READ, &WRITE] {
        let text = with_host(args, "unix:///nowhere/d.sock");
        assert!(text.contains("no docker listens there; start it"), "{text}");
        for host in ["tcp://host:2375", "ssh://host", "unix://d.sock"] {
            let text = with_host(args, host);
            assert!(text.contains(host) && text.contains("`docker save NAME | relayer"), "{text}");
        }
    }
}
