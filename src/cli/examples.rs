//! Examples of each command, for its `--help` and its manual page.

use std::fmt::Write as _;

use clap::Command;

/// The exit statuses, as manual pages list them.
pub(super) const EXIT_STATUS: [(&str, &str); 3] = [
    ("0", "Done."),
    (
        "1",
        "Something failed: what was to be written is not there, or as it was before. Or the images of verify \
         differ, rebase found conflicts, a limit of inspect --fail-on is exceeded, or store check found problems.",
    ),
    ("2", "Wrong usage; nothing was done."),
];

/// What IMAGE and DEST may be.
pub(super) const TRANSPORTS: &str = "\
IMAGE and DEST have the form that skopeo uses:
  docker-archive:FILE[:TAG]   an archive as `docker save` writes it
  oci:DIR[:TAG]               a folder in OCI layout
  oci-archive:FILE[:TAG]      an OCI layout in a tar archive
  dir:DIR                     a folder as skopeo writes it, for one image
  docker://NAME[:TAG]         an image in a registry, named as docker names it
  docker-daemon:NAME[:TAG]    an image of docker, through its socket
  containers-storage:NAME[:TAG]
                              an image of podman, through `podman`
  containerd:NAME[:TAG]       an image of containerd, through `ctr`
  store:DIR[:NAME]            an image in a store, read only
  FILE or DIR [:TAG]          any of these, detected from the content
  -                           standard input or output";

/// A command line and what it does.
type Example = (&'static str, &'static str);

/// Examples by command.
const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "relayer",
        &[
            ("relayer split img.tar -o new.tar", "Split an image into 8 layers"),
            ("relayer inspect docker://alpine", "Show what is in an image of a registry"),
        ],
    ),
    (
        "split",
        &[
            ("relayer split img.tar --target 20 -o oci:out:v1", "Make 20 layers, in an OCI layout"),
            (
                "relayer split docker://REGISTRY/app:build -o docker://REGISTRY/app:v2 --previous docker://REGISTRY/app:v1",
                "Push an update that keeps layers of the previous version",
            ),
        ],
    ),
    (
        "flatten",
        &[
            ("relayer flatten img.tar -o flat.tar", "Make an image of one layer"),
            (
                "relayer flatten docker-daemon:app:v1 -o docker-daemon:app:flat",
                "Do so within docker",
            ),
        ],
    ),
    (
        "inspect",
        &[
            (
                "relayer inspect img.tar",
                "Show layers, wasted bytes, likely secrets and incompatibilities",
            ),
            (
                "relayer inspect docker://REGISTRY/app:v1 --fail-on secret,waste=20%",
                "Fail a pipeline: exit status 1",
            ),
        ],
    ),
    (
        "explain",
        &[
            (
                "relayer explain img.tar /usr/lib/libssl.so.3",
                "Show its layer and package, and what an update of it costs",
            ),
            ("relayer explain img.tar /root/.npmrc --json", "Show which layer deletes a file"),
        ],
    ),
    (
        "verify",
        &[
            ("relayer verify img.tar img.relayer.tar", "Check that both have the same files"),
            (
                "relayer verify img.tar docker://REGISTRY/app:v2 --allow carried-mtimes",
                "Ignore the timestamps that --previous carried over",
            ),
        ],
    ),
    (
        "diff",
        &[
            ("relayer diff v1.tar v2.tar", "Show what changed, and what clients download"),
            (
                "relayer diff docker://REGISTRY/app:v1 docker://REGISTRY/app:v2 docker://REGISTRY/app:v3 --json",
                "Do so for several updates, as JSON",
            ),
        ],
    ),
    (
        "bench",
        &[
            ("relayer bench img.tar", "Measure codecs and numbers of layers"),
            ("relayer bench v1.tar v2.tar --json", "Measure an update too, as JSON"),
        ],
    ),
    (
        "report",
        &[
            ("relayer report img.tar -o img.html", "Write a page on an image"),
            ("relayer report v1.tar v2.tar -o update.html", "Write a page on an update"),
        ],
    ),
    (
        "delta",
        &[
            ("relayer delta v1.tar v2.tar -o v2.delta", "Write what v2 has and v1 does not"),
            (
                "relayer delta oci:images:v1 oci:images:v2 --level 19 -o v2.delta",
                "Take more time for a smaller one",
            ),
        ],
    ),
    (
        "apply",
        &[
            ("relayer apply v1.tar v2.delta -o v2.tar", "Make v2 from v1 and the delta"),
            (
                "relayer apply docker-daemon:app:v1 v2.delta -o docker-daemon:app:v2",
                "Do so within docker",
            ),
        ],
    ),
    (
        "history add",
        &[
            (
                "relayer history add v1.tar v2.tar v3.tar",
                "Learn from three versions, the oldest first",
            ),
            (
                "relayer history add docker://REGISTRY/app:v4 --history rates",
                "Learn from one more, in a folder of your own",
            ),
        ],
    ),
    (
        "history show",
        &[
            ("relayer history show", "Show the rates of change that were learned"),
            ("relayer history show --history rates --json", "Print those of a folder as JSON"),
        ],
    ),
    (
        "store add",
        &[
            ("relayer store add v1.tar v2.tar", "Keep two images"),
            (
                "relayer store add docker://REGISTRY/app:v3 --store images",
                "Keep one of a registry, in a folder of your own",
            ),
        ],
    ),
    (
        "store list",
        &[
            ("relayer store list", "List the images"),
            ("relayer store list --json", "Print them as JSON"),
        ],
    ),
    (
        "store extract",
        &[
            ("relayer store extract app:v1 -o v1.tar", "Write an image to a file"),
            ("relayer store extract app:v1 -o docker://REGISTRY/app:v1", "Push it"),
        ],
    ),
    (
        "store stats",
        &[
            ("relayer store stats", "Show what sharing saves"),
            ("relayer store stats --store images --json", "Print that of a folder as JSON"),
        ],
    ),
    (
        "store cat",
        &[
            ("relayer store cat app:v1 /etc/os-release", "Print a file of an image"),
            (
                "relayer store cat app:v1 /app/model.bin --platform linux/arm64",
                "Choose one of several platforms",
            ),
        ],
    ),
    (
        "store rm",
        &[
            ("relayer store rm app:v1", "Remove an image"),
            (
                "relayer store rm --keep-last 10 app --dry-run",
                "Show what would go if ten images of a repository stayed",
            ),
        ],
    ),
    (
        "store gc",
        &[
            ("relayer store gc", "Reclaim the space of images that were removed"),
            ("relayer store gc --level 19", "Also take more time to compress what stays"),
        ],
    ),
    (
        "store check",
        &[
            ("relayer store check", "Read everything and verify every hash"),
            (
                "relayer store check --blobs --repair",
                "Also rebuild all blobs, and remove what is damaged",
            ),
        ],
    ),
    (
        "copy",
        &[
            (
                "relayer copy docker://REGISTRY/app:v1 oci:images:v1",
                "Download an image into an OCI layout",
            ),
            ("relayer copy img.tar docker://REGISTRY/app:v1", "Push one"),
        ],
    ),
    (
        "rebase",
        &[
            (
                "relayer rebase docker://REGISTRY/app:v1 --from docker://debian:12.9 --to docker://debian:12.11 -o docker://REGISTRY/app:v1-1",
                "Move an image to a new version of its base",
            ),
            (
                "relayer rebase app.tar --from old.tar --to new.tar -o new-app.tar --keep base=package:openssl --keep app=/etc",
                "Decide conflicts: openssl is that of the new base, /etc that of the image",
            ),
        ],
    ),
    (
        "edit",
        &[
            (
                "relayer edit docker://REGISTRY/app:v1 --env LOG=debug -o docker://REGISTRY/app:v1-debug",
                "Set a variable in a registry, where no layer is sent again",
            ),
            (
                "relayer edit img.tar --env TOKEN- --redact-history --label tier=web -o new.tar",
                "Remove a secret from the config, and set a label",
            ),
        ],
    ),
    (
        "cache prune",
        &[
            ("relayer cache prune", "Remove all blobs that were downloaded"),
            ("relayer cache prune --keep 5GB", "Keep those that were used last"),
        ],
    ),
    (
        "config",
        &[
            ("relayer config", "Show which options are set, and where"),
            ("relayer config split", "Show all options of split, with their defaults"),
        ],
    ),
    (
        "completions",
        &[
            (
                "relayer completions bash >/etc/bash_completion.d/relayer",
                "Install completions for bash",
            ),
            (
                "relayer completions fish >~/.config/fish/completions/relayer.fish",
                "Install those for fish",
            ),
        ],
    ),
    (
        "man",
        &[
            ("relayer man >relayer.1", "Write the page of relayer itself"),
            ("relayer man store add >relayer-store-add.1", "Write that of a command"),
        ],
    ),
];

/// Returns the examples of a command: `store add`.
pub(super) fn of(path: &str) -> &'static [Example] {
    EXAMPLES.iter().find(|(of, _)| *of == path).map_or(&[], |(_, examples)| examples)
}

/// Adds examples to the help of a command and of those below it.
pub(super) fn explain(command: Command) -> Command {
    add(command, "")
}

fn add(mut command: Command, path: &str) -> Command {
    let names: Vec<_> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        let below = format!("{path} {name}");
        command = command.mut_subcommand(name, |sub| add(sub, below.trim_start()));
    }
    let examples = of(if path.is_empty() { "relayer" } else { path });
    if examples.is_empty() {
        return command;
    }
    let mut text = "Examples:".to_owned();
    for (line, what) in examples {
        let _ = write!(text, "\n  # {what}\n  {line}");
    }
    let is_image = |name: &&str| ["IMAGE", "DEST", "OLD", "A"].contains(name);
    let names_images = command.get_arguments().any(|arg| {
        let mut names =
            arg.get_value_names().unwrap_or_default().iter().map(clap::builder::Str::as_str);
        names.any(|name| is_image(&name))
    });
    if path.is_empty() || names_images {
        command = command.after_long_help(format!("{TRANSPORTS}\n\n{text}"));
    }
    command.after_help(text)
}

/// Returns the sections of a manual page that all commands have.
pub(super) fn manual(path: &str) -> String {
    let mut text = ".SH EXAMPLES\n".to_owned();
    for (line, what) in of(path) {
        let (line, what) = (roff(line), roff(what));
        let _ = write!(text, ".PP\n{what}:\n.PP\n.RS 4\n.nf\n{line}\n.fi\n.RE\n");
    }
    text.push_str(".SH \"EXIT STATUS\"\n");
    for (status, meaning) in EXIT_STATUS {
        let _ = write!(text, ".TP\n{status}\n{}\n", roff(meaning));
    }
    text
}

/// Escapes a line for roff.
fn roff(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    /// Returns the paths of all commands that do something.
    fn leaves(command: &Command, path: &str, found: &mut Vec<String>) {
        if command.get_subcommands().count() == 0 {
            found.push(path.to_owned());
        }
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            leaves(sub, format!("{path} {}", sub.get_name()).trim_start(), found);
        }
    }

    #[test]
    fn every_command_has_two_examples_that_are_valid() {
        let mut paths = vec!["relayer".to_owned()];
        leaves(&Cli::command(), "", &mut paths);
        assert!(paths.len() > 15);
        for path in &paths {
            assert_eq!(of(path).len(), 2, "{path}");
            for (line, _) in of(path) {
                assert!(
                    path == "relayer" || line.starts_with(&format!("relayer {path}")),
                    "{line}"
                );
                let line = line.split('>').next().unwrap_or_default();
                let parsed = Cli::command().try_get_matches_from(line.split_whitespace());
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn help_has_examples_and_says_what_images_are() {
        let mut command = explain(Cli::command());
        let split = command.find_subcommand_mut("split").unwrap();
        let help = split.render_long_help().to_string();
        assert!(help.contains("Examples:\n  # ") && help.contains("docker-archive:FILE"), "{help}");
        assert!(split.render_help().to_string().contains("Examples:"));
    }

    #[test]
    fn manual_pages_have_examples_and_exit_statuses() {
        let page = manual("store add");
        assert!(page.contains(".SH EXAMPLES\n.PP\nKeep two images:"), "{page}");
        assert!(page.contains("\\-\\-store images\n"), "{page}");
        assert!(page.contains(".SH \"EXIT STATUS\"\n.TP\n0\nDone."), "{page}");
        assert_eq!(roff(".x"), "\\&.x");
    }
}
