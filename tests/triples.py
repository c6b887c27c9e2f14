"""Draws triples for tests/rebase.py: what an old base has, what a new base changes, and what an app does.

An operation is a few lines of a Dockerfile, and the items that it reads and writes: `content:/etc/profile`, `pkg:tree`,
`uid:regular`, `env:LANG`. If an app reads or writes what the new base writes, the triple is *contested*: then a conflict
is a right result. Otherwise the three images determine what a build on the new base gives, and a rebase must give that.
"""
import posixpath

# Packages with nothing outside the essential ones, or with what they need before them.
GROUPS = [
    ["tree"], ["ed"], ["netbase"], ["dc"], ["time"], ["patch"], ["gettext-base"], ["xxd"], ["sensible-utils"],
    ["figlet"], ["unzip"], ["zip"], ["media-types"], ["libyaml-0-2"], ["libexpat1"], ["brotli"], ["lz4"], ["less"],
    ["original-awk"], ["libcap2-bin"], ["libonig5", "libjq1", "jq"], ["libmagic-mgc", "libmagic1", "file"],
    ["adduser", "uuid-runtime"], ["libpng16-16"], ["psmisc"], ["xz-utils"],
]
# Packages of the essential set that are upgraded.
ESSENTIAL = ["hostname", "grep", "diffutils", "debianutils", "gzip", "ncurses-bin", "libuuid1", "libsmartcols1",
             "findutils", "util-linux-extra", "libmd0"]
# Packages that are upgraded together, if the package source has two versions of them.
REAL = [["libc6", "libc-bin"], ["perl-base"], ["util-linux"], ["bsdutils"]]
CONFIGS = ["/etc/profile", "/etc/login.defs", "/etc/bash.bashrc", "/etc/host.conf", "/etc/nsswitch.conf",
           "/etc/skel/.bashrc", "/etc/pam.conf", "/etc/libaudit.conf", "/etc/security/limits.conf", "/etc/debian_version"]
FREE_DIRS = ["/etc/alternatives", "/etc/profile.d", "/usr/local/share", "/etc/security", "/usr/share/common-licenses",
             "/etc/default", "/usr/share/base-files", "/usr/local/bin", "/opt", "/etc/skel"]


class Op:
    """Lines of a Dockerfile with the files that they copy, and the items that they read and write."""

    def __init__(self, lines, writes, reads=(), files=None):
        self.lines = [lines] if isinstance(lines, str) else lines
        self.writes, self.reads, self.files = set(writes), set(reads), files or {}

    def touches(self):
        return self.writes | self.reads


def existing(*paths):
    return {f"{of}:{p}" for p in paths for of in ("content", "mode")}


def added(path):
    """What a new file writes: itself, and what is seen of each folder that it is in."""
    folders = [path[:i] for i, c in enumerate(path) if c == "/" and i]
    return existing(path) | {f"below:{f}" for f in folders} | {f"dir:{posixpath.dirname(path)}"}


def alone(items):
    """Items that one operation writes: into a folder several may write."""
    return {i for i in items if not i.startswith(("dir:", "below:"))}


def fill(rng, count, draws, *args, avoid=frozenset()):
    """`count` operations that touch nothing of each other, nor what is to be avoided: they could be done in any order."""
    ops, written, read, tries = [], set(), set(), 0
    while len(ops) < count and tries < 200:
        tries += 1
        op = rng.choice(draws)(rng, *args)
        if op and not (alone(op.writes) | op.reads) & (avoid | written) and not op.writes & read:
            ops.append(op)
            written |= op.writes
            read |= op.reads
    return ops


class State:
    """What is known of the old base: its packages, its regular files, and the debs at hand."""

    def __init__(self, packages, files, debs):
        self.packages, self.files, self.debs = packages, files, debs

    def owned(self, package):
        return [p for p in self.debs.paths(package) if p in self.files]

    def upgradable(self):
        """Packages of which a new version can be made: those whose version here is known."""
        real = {p for g in REAL for p in g}
        return [p for p in sorted(self.packages - real) if p in self.debs and self.owned(p)]

    def file(self, rng, under=("/usr/bin/", "/usr/share/", "/etc/", "/usr/sbin/")):
        keep = ("/usr/bin/dpkg", "/usr/bin/sh", "/usr/share/dpkg", "/usr/share/perl", "/usr/bin/perl", "/etc/pam.d",
                "/usr/share/debconf", "/etc/security", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow",
                "/etc/sub", "/etc/ld.so", "/etc/login", "/etc/dpkg", "/usr/sbin/ldconfig", "/etc/alternatives",
                "/usr/bin/update-alt", "/etc/skel", "/etc/adduser", "/etc/nsswitch", "/etc/profile", "/etc/environment")
        tools = ("bash", "dash", "sed", "tar", "rm", "cp", "mv", "ln", "chmod", "chown", "cat", "mkdir", "find", "grep", "touch",
                 "useradd", "groupadd", "usermod", "getent", "diff", "gzip", "xargs", "deb-systemd-helper", "tempfile")
        fits = [p for p in self.files if p.startswith(under) and not p.startswith(keep) and posixpath.basename(p) not in tools]
        return rng.choice(fits)


# What an old base has beyond the essential packages.

def base_packages(rng, s):
    group = rng.choice(GROUPS)
    return install(rng, s, group)


def base_user(rng, s):
    return Op(f"RUN useradd -r -s /bin/sh svc{rng.randrange(9)}", {"uid:system"})


def base_env(rng, s):
    key = f"BASE_{rng.choice('ABC')}"
    return Op(f"ENV {key}={rng.choice(['/opt/base', 'one:two', '1.2.3'])}", {f"env:{key}"})


def base_label(rng, s):
    return Op(f"LABEL base.version={rng.randrange(9)} base.maker=us", {"label:base.version"})


def base_file(rng, s):
    path = f"{rng.choice(FREE_DIRS)}/base{rng.randrange(50)}"
    return Op(f"COPY f {path}", added(path), files={"f": b"A file of the base, long enough to be told apart.\n" * 3})


def base_tree(rng, s):
    name = f"tree{rng.randrange(9)}"
    lines = [f"RUN mkdir -p /usr/share/{name}/a /usr/share/{name}/b && for i in 1 2 3; do echo {name} text $i > /usr/share/{name}/a/$i.txt; "
             f"echo {name} data $i > /usr/share/{name}/b/$i.dat; done && chmod 750 /usr/share/{name}/b && ln /usr/share/{name}/a/1.txt /usr/share/{name}/a/link"]
    return Op(lines, {f"content:/usr/share/{name}"})


def base_command(rng, s):
    return Op('CMD ["bash"]', {"config:Cmd"})


BASE = [base_packages] * 6 + [base_user, base_env, base_env, base_label, base_file, base_tree, base_command]


# What either side does.

def install(rng, s, group=None):
    group = group or rng.choice([g for g in GROUPS if not any(p in s.packages for p in g)] or [None])
    if not group:
        return None
    writes = {f"pkg:{p}" for p in group}
    for p in group:
        writes |= existing(*s.debs.paths(p))
    if "uuid-runtime" in group:
        writes |= {"uid:system"}
    if "original-awk" in group:
        writes |= {"alternative:awk"}
    if "sensible-utils" in group or "less" in group or "ed" in group:
        writes |= {"alternative:pager", "alternative:editor"}
    reads = {f"gone:{p}" for p in s.packages} | {"dpkg.cfg"}
    if "uuid-runtime" in group:
        reads |= {"content:/etc/login.defs", "content:/etc/adduser.conf"}
    return Op(f"RUN dpkg -i {' '.join(s.debs.mounted(p) for p in group)}", writes, reads)


def remove(rng, s, package=None):
    leaves = [p for g in GROUPS if all(p in s.packages for p in g) for p in g[-1:] if p not in ("uuid-runtime",)]
    package = package or (rng.choice(leaves) if leaves else None)
    if not package:
        return None
    writes = {f"pkg:{package}", f"gone:{package}"} | existing(*s.owned(package))
    if package == "original-awk":
        writes |= {"alternative:awk"}
    return Op(f"RUN {'dpkg -P' if rng.random() < 0.7 else 'dpkg -r'} {package}", writes)


def user(rng, s, n=None):
    name = rng.choice(["app", "web", "worker", "data"]) + str(n if n is not None else rng.randrange(100))
    reads = {"content:/etc/login.defs", "content:/etc/default/useradd"}
    kind = rng.randrange(4)
    if kind == 0:
        return Op(f"RUN useradd -m {name}", {"uid:regular", "subids", f"user:{name}"}, reads | {"dir:/etc/skel", "content:/etc/skel/.bashrc"})
    if kind == 1:
        return Op(f"RUN useradd -r -s /usr/sbin/nologin {name}", {"uid:system", f"user:{name}"}, reads)
    number = rng.randrange(2000, 60000)
    if kind == 2:
        # useradd gives such a user the next free range in /etc/subuid.
        return Op(f"RUN groupadd -g {number} {name} && useradd -M -u {number} -g {name} {name}", {f"uid:{number}", "subids", f"user:{name}"}, reads)
    return Op(f"RUN groupadd -g {number} {name}", {f"uid:{number}", f"user:{name}"}, reads)


def member(rng, s):
    group, who = rng.choice(["adm", "audio", "staff", "users"]), rng.choice(["www-data", "backup", "games", "nobody"])
    return Op(f"RUN usermod -aG {group} {who}", {f"member:{group}:{who}"})


def config(rng, s, path=None):
    path = path or rng.choice(CONFIGS)
    if path not in s.files:
        return None
    n = rng.randrange(1000)
    change = rng.choice([f"echo '# line {n}' >> {path}", f"sed -i '1i # first {n}' {path}"])
    return Op(f"RUN {change}", {f"content:{path}"})


def new_file(rng, s, where=None):
    path = f"{where or rng.choice(FREE_DIRS)}/{rng.choice(['a', 'b', 'c'])}{rng.randrange(10000)}.conf"
    mode = rng.choice(["", "--chmod=0600 ", "--chown=1:2 "])
    return Op(f"COPY {mode}g {path}", added(path), files={"g": b"A new file %d\n" % rng.randrange(10 ** 9)})


def delete(rng, s, path=None):
    path = path or s.file(rng, ("/usr/bin/", "/usr/share/"))
    return Op(f"RUN rm -f {path}", existing(path))


def permissions(rng, s, path=None):
    path = path or s.file(rng)
    return Op(f"RUN chmod {rng.choice(['700', '755', 'g+w', 'o-rx', '4755'])} {path}", {f"mode:{path}"})


def owner(rng, s, path=None):
    path = path or s.file(rng)
    return Op(f"RUN chown {rng.choice(['daemon', '7:7', ':games'])} {path}", {f"mode:{path}"})


def environment(rng, s, key=None):
    key = key or rng.choice(["LANG", "TZ", "APP_MODE", "BASE_A", "BASE_B"])
    return Op(f"ENV {key}={rng.choice(['C.UTF-8', 'UTC', 'x y'.replace(' ', '_'), 'v' + str(rng.randrange(99))])}", {f"env:{key}"})


def label(rng, s):
    key = rng.choice(["base.version", "org.example.revision", "team"])
    return Op(f"LABEL {key}=r{rng.randrange(99)}", {f"label:{key}"})


def field(rng, s, key=None):
    """A field of the config. A base for another user would be one that the app's steps read: it is left to apps."""
    lines = {"Cmd": f'CMD ["app", "{rng.randrange(9)}"]', "User": f"USER {rng.choice(['daemon', '33'])}",
             "WorkingDir": f"WORKDIR /srv/w{rng.randrange(9)}", "StopSignal": f"STOPSIGNAL SIG{rng.choice(['INT', 'QUIT'])}",
             "Entrypoint": f'ENTRYPOINT ["/bin/e{rng.randrange(9)}"]', "ExposedPorts": f"EXPOSE {rng.randrange(1000, 9999)}",
             "Volumes": f"VOLUME /data{rng.randrange(99)}"}
    key = key or rng.choice([k for k in lines if k != "User"])
    # A set of ports or volumes gets one more, and an entrypoint resets the command.
    writes = set() if key in ("ExposedPorts", "Volumes") else {f"config:{key}"}
    writes |= {"dir:/srv"} if key == "WorkingDir" else {"config:Cmd"} if key == "Entrypoint" else set()
    return Op(lines[key], writes)


def alternative(rng, s, name=None):
    name = name or rng.choice(["pager", "editor", f"x-tool{rng.randrange(9)}"])
    to, priority = rng.choice(["/usr/bin/cat", "/usr/bin/head", "/usr/bin/tail"]), rng.randrange(100)
    return Op(f"RUN update-alternatives --install /usr/bin/{name} {name} {to} {priority}", {f"alternative:{name}"} | existing(f"/usr/bin/{name}"))


def hold(rng, s, package=None):
    package = package or rng.choice(sorted(s.packages))
    return Op(f"RUN echo {package} hold | dpkg --set-selections", {f"status:{package}"})


def library(rng, s):
    """A library in a folder of the cache, which is written anew."""
    n = rng.randrange(100)
    return Op([f"RUN cp -L /lib/*-linux-gnu/libmd.so.0 /usr/local/lib/libown{n}.so.0 && ldconfig"],
              added(f"/usr/local/lib/libown{n}.so.0"), {"content:libmd"})


def folder_of_libraries(rng, s):
    n = rng.randrange(100)
    return Op([f"RUN mkdir -p /opt/lib{n} && echo /opt/lib{n} > /etc/ld.so.conf.d/own{n}.conf && ldconfig"], {f"content:/opt/lib{n}"})


def divert(rng, s, path=None):
    path = path or s.file(rng, ("/usr/bin/",))
    return Op(f"RUN dpkg-divert --local --rename --add {path}", existing(path, path + ".distrib") | {"divert"})


def override(rng, s, path=None):
    path = path or s.file(rng, ("/usr/bin/",))
    return Op(f"RUN dpkg-statoverride --force-all --update --add root daemon 2750 {path}", {f"mode:{path}", f"override:{path}"})


def link(rng, s):
    path, n = s.file(rng, ("/usr/bin/",)), rng.randrange(1000)
    return Op(f"RUN ln {rng.choice(['', '-s '])}{path} /usr/local/bin/also{n}", added(f"/usr/local/bin/also{n}"), {f"gone:{path}"})


def move(rng, s):
    path, n = s.file(rng, ("/usr/share/", "/usr/bin/")), rng.randrange(1000)
    return Op(f"RUN mv {path} /usr/local/share/moved{n}", existing(path) | added(f"/usr/local/share/moved{n}"))


def type_change(rng, s, path=None):
    path = path or s.file(rng, ("/usr/share/",))
    return Op(f"RUN rm -f {path} && {rng.choice([f'ln -s /dev/null {path}', f'mkdir {path}'])}", existing(path))


def shell_of_root(rng, s):
    return Op(f"RUN usermod -s {rng.choice(['/bin/sh', '/usr/bin/bash', '/usr/sbin/nologin'])} {rng.choice(['root', 'daemon', 'games'])}", {"shells"})


BOTH = [install] * 4 + [remove, user, user, member, config, config, new_file, new_file, delete, permissions, owner, environment,
                        label, field, field, alternative, hold, library, folder_of_libraries, divert, override, link, move, type_change,
                        shell_of_root]


# What only a new base does.

def upgrade(rng, s, package=None):
    """A package of a newer version that was made from the one at hand: files change, come, and sometimes go."""
    package = package or rng.choice(s.upgradable())
    files, name = [p for p in s.owned(package) if not p.endswith(".so.0")], f"/usr/share/{package}/added{rng.randrange(100)}"
    if not files:
        return None
    changed = rng.sample(files, min(len(files), rng.choice([1, 1, 2, 5])))
    gone = [p for p in rng.sample(files, 1) if p.startswith("/usr/share/") and p not in changed]
    deb = s.debs.upgraded(package, changed, gone, name)
    writes = {f"pkg:{package}"} | {f"content:{p}" for p in changed} | added(name) | {f"gone:{p}" for p in gone}
    for p in gone:
        writes |= existing(p)
    writes |= {"content:libmd"} if package == "libmd0" else set()
    return Op(f"RUN dpkg --force-confnew -i {deb}", writes, {"dpkg.cfg"})


def real_upgrade(rng, s):
    """Versions that a distribution has published, where the old base was set back to the older one."""
    groups = [g for g in s.debs.two_versions() if all(p in s.packages for p in g)]
    if not groups:
        return None
    group = rng.choice(groups)
    writes = set()
    for p in group:
        writes |= {f"pkg:{p}"} | {f"content:{f}" for f in s.debs.changed(p)}
    return Op(f"RUN dpkg -i {' '.join(s.debs.mounted(p) for p in group)}", writes, {"dpkg.cfg"})


NEW = BOTH + [upgrade] * 8 + [real_upgrade] * 4


# What only an app does.

def source(rng, s):
    n = rng.randrange(100)
    files = {f"app/{d}/m{i}.py": b"import os\nprint(%d, os.name)\n" % rng.randrange(10 ** 6) for d in ("a", "b") for i in range(3)}
    return Op(f"COPY app /srv/app{n}", {f"content:/srv/app{n}"}, files=files)


def as_user(rng, s):
    return field(rng, s, "User")


def path_first(rng, s):
    return Op(f"ENV PATH=/srv/bin{rng.randrange(9)}:$PATH", {"env:PATH+"})


def purge_lists(rng, s):
    return Op("RUN rm -rf /var/lib/apt/lists/* /tmp/* /var/tmp/*", {"dir:/tmp"})


def copy(rng, s, path=None):
    path = path or s.file(rng)
    n = rng.randrange(1000)
    return Op(f"RUN cp -a {path} /opt/copy{n}", added(f"/opt/copy{n}"), existing(path))


def remove_tree(rng, s, where=None):
    where = where or rng.choice(["/usr/share/common-licenses", "/usr/share/doc", "/usr/share/lintian", "/usr/share/bash-completion"])
    return Op(f"RUN rm -rf {where}{rng.choice(['', '/*'])}", {f"content:{p}" for p in s.files if p.startswith(where + "/")} | {f"dir:{where}"},
              {f"below:{where}"})


def recursive(rng, s, where=None):
    where = where or rng.choice(["/etc/security", "/etc/default", "/etc/profile.d", "/etc/skel", "/usr/local"])
    under = [p for p in s.files if p.startswith(where + "/")]
    return Op(f"RUN {rng.choice(['chmod -R g=u', 'chown -R 1001:0', 'chmod -R o-rwx'])} {where}", {f"mode:{p}" for p in under},
              {f"dir:{where}", f"below:{where}"})


def named_owner(rng, s):
    n = rng.randrange(100)
    return Op(f"COPY --chown={rng.choice(['www-data', 'games', 'backup:staff'])} h /srv/named{n}/h", {f"content:/srv/named{n}"},
              {"ids"}, {"h": b"owned by a name\n"})


def of_base(rng, s):
    return Op(f"ENV OWN_HOME=${{BASE_{rng.choice('ABC')}}}/own", {"env:OWN_HOME"}, {"env:BASE_A", "env:BASE_B", "env:BASE_C"})


def capability(rng, s):
    if "libcap2-bin" not in s.packages:
        return None
    path = s.file(rng, ("/usr/bin/",))
    return Op(f"RUN setcap cap_net_raw+ep {path}", {f"capability:{path}"})


APP = BOTH + [source] * 5 + [path_first] * 2 + [as_user, purge_lists, copy, remove_tree, recursive, named_owner, of_base, capability, environment, label]


# Pairs about the same item: what the new base does, and what the app does.

def contested(rng, s, number):
    """The pair with a number, as often around as it takes; if it can't be made here, the next one."""
    upgraded = rng.choice(s.upgradable())
    owned = rng.choice(s.owned(upgraded))
    path, key = s.file(rng, ("/etc/", "/usr/share/")), rng.choice(["LANG", "BASE_A", "TZ"])
    conf = rng.choice([c for c in CONFIGS if c in s.files])
    where = rng.choice(["/etc/security", "/etc/default", "/usr/share/common-licenses", "/etc/skel", "/usr/share/doc"])
    n = rng.randrange(10000)
    at = lambda folder: Op(f"COPY k {folder}/k{n}", added(f"{folder}/k{n}"), files={"k": b"comes with the base %d\n" % n})
    write = lambda p: Op(f"RUN echo {rng.randrange(10 ** 6)} > {p}", {f"content:{p}"})
    skel = lambda: Op("RUN useradd -m person", {"uid:regular"}, {"dir:/etc/skel"})
    pairs = {
        "upgrade and removal of a package": lambda: (upgrade(rng, s, upgraded), Op(f"RUN rm -f {' '.join(s.owned(upgraded)[:3])}", existing(*s.owned(upgraded)[:3]))),
        "upgrade and change of its file": lambda: (upgrade(rng, s, upgraded), Op(f"RUN echo >> {owned}", {f"content:{owned}"})),
        "upgrade and mode of its file": lambda: (upgrade(rng, s, upgraded), permissions(rng, s, owned)),
        "two upgrades": lambda: (upgrade(rng, s, upgraded), upgrade(rng, s, upgraded)),
        "upgrade and copy of its file": lambda: (upgrade(rng, s, upgraded), copy(rng, s, owned)),
        "one config": lambda: (config(rng, s, conf), config(rng, s, conf)),
        "one file": lambda: (write(path), write(path)),
        "change and removal": lambda: (write(path), delete(rng, s, path)),
        "removal and change": lambda: (delete(rng, s, path), write(path)),
        "mode and mode": lambda: (permissions(rng, s, path), permissions(rng, s, path)),
        "type and change": lambda: (type_change(rng, s, path), Op(f"RUN test -d {path} || echo x >> {path}", {f"content:{path}"})),
        "one variable": lambda: (environment(rng, s, key), environment(rng, s, key)),
        "one field": lambda: (lambda k: (field(rng, s, k), field(rng, s, k)))(rng.choice(["Cmd", "WorkingDir", "StopSignal", "Entrypoint"])),
        "two users with one ID": lambda: (Op("RUN useradd first", {"uid:regular"}), Op("RUN useradd second", {"uid:regular"})),
        "two system users": lambda: (Op("RUN useradd -r first", {"uid:system"}), Op("RUN useradd -r second", {"uid:system"})),
        "file in a tree that is removed": lambda: (at(where), remove_tree(rng, s, where)),
        "file in a tree whose modes change": lambda: (at(where), recursive(rng, s, where)),
        "one alternative": lambda: (alternative(rng, s, "pager"), alternative(rng, s, "pager")),
        "one package": lambda: (lambda g: (install(rng, s, g), install(rng, s, g)))(rng.choice(GROUPS[:8])),
        "removal of what a package needs": lambda: (Op("RUN dpkg --force-depends -P libuuid1", {"gone:libuuid1"}),
                                                   install(rng, s, ["adduser", "uuid-runtime"])),
        "upgrade and diversion": lambda: (upgrade(rng, s, upgraded), divert(rng, s, owned)),
        "skeleton and home": lambda: (at("/etc/skel"), skel()),
        "defaults of users": lambda: (Op("RUN sed -i 's/^UID_MIN.*/UID_MIN 3000/' /etc/login.defs", {"content:/etc/login.defs"}), skel()),
        "defaults of packages": lambda: (Op("RUN mkdir -p /etc/dpkg/dpkg.cfg.d && echo path-exclude=/usr/share/tree/* > /etc/dpkg/dpkg.cfg.d/own && echo 'path-exclude=/usr/share/doc/*' >> /etc/dpkg/dpkg.cfg.d/own", {"dpkg.cfg"}),
                                         install(rng, s)),
        "another ID and its files": lambda: (Op("RUN groupmod -g 41 games && usermod -u 41 games", {"ids"}),
                                             Op("COPY --chown=games:games h /srv/named/h", {"dir:/srv/named"}, {"ids"}, {"h": b"owned by a name\n"})),
        "variable in a variable": lambda: (Op("ENV BASE_HOME=/usr/other/place", {"env:BASE_HOME"}), Op("ENV OWN_HOME=$BASE_HOME/own", {"env:OWN_HOME"}, {"env:BASE_HOME"})),
        "sort of files that is removed": lambda: (Op("COPY k /usr/share/misc/k.txt", added("/usr/share/misc/k.txt"), files={"k": b"k\n"}),
                                                 Op("RUN find /usr/share -name '*.txt' -delete", {"below:/usr/share"}, {"dir:/usr/share/misc"})),
        "folder that goes": lambda: (Op("RUN rm -rf /usr/share/base-files", {"dir:/usr/share/base-files"}), Op("COPY k /usr/share/base-files/k", {"dir:/usr/share/base-files"}, files={"k": b"k\n"})),
        "set-user-ID bits": lambda: (Op("RUN cp /usr/bin/cat /usr/bin/setuid && chmod 4755 /usr/bin/setuid", added("/usr/bin/setuid")),
                                     Op("RUN find / -xdev -perm /6000 -type f -exec chmod a-s {} +", {"dir:/usr/bin"})),
        "copy of what both change": lambda: (Op("RUN useradd -r first", {"uid:system"}), Op(["RUN groupadd -g 5000 own", "RUN cp /etc/group /opt/group"], {"uid:5000"}, {"uid:system"})),
        "libraries and a folder of them": lambda: (Op("RUN mkdir -p /opt/lib && cp -L /lib/*-linux-gnu/libmd.so.0 /opt/lib/ && echo /opt/lib > /etc/ld.so.conf.d/base.conf", {"dir:/opt/lib"}),
                                                  Op("RUN ldconfig", set(), {"dir:/opt/lib"})),
    }
    name = sorted(pairs)[number % len(pairs)]
    base, app = pairs[name]()
    return (name, base, app) if base and app else contested(rng, s, number + 1)
