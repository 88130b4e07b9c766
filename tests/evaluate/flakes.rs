//! Flakes are evaluated as Nix does by itself, and again only if what they are locked to has changed.

use serde_json::{Value, json};
use tests::{Folder, Ran, project, sample};

/// A flake that depends on all that a flake can see.
const FLAKE: &str = r#"{
  inputs.other = { url = "path:OTHER"; flake = false; };
  outputs = { self, other }: {
    nixosConfigurations.a = {
      config.system.build.toplevel = derivation {
        name = "nixos-system-test"; system = "x86_64-linux"; builder = "/bin/sh";
        self = builtins.toJSON [ "${self}" (builtins.removeAttrs self [ "outPath" "inputs" "outputs" "sourceInfo" "nixosConfigurations" ]) ];
        info = builtins.toJSON [ "${self.sourceInfo}" (builtins.removeAttrs self.sourceInfo [ "outPath" ]) ];
        inner = builtins.toJSON (builtins.attrNames self.outputs ++ builtins.attrNames self.inputs);
        value = builtins.readFile ./value + builtins.readFile (other + "/value") + builtins.getEnv "TEST_VARIABLE";
      };
    };
  };
}"#;

const GIT: &str = "git -c user.name=a -c user.email=a@example.org";
const COMMITTER: &str = "export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org";
const TOPLEVEL: &str = "nixosConfigurations.a.config.system.build.toplevel";

/// What one run came to.
#[derive(Debug, PartialEq)]
struct Came {
    toplevel: String,
    evaluated: bool,
    /// Whether Nix was asked for the lock
    asked: bool,
    /// Why it is not kept for the next run, if it is not
    lost: Option<String>,
}

/// Flakes in several places, and a Nix that evaluates them.
struct Flakes {
    folder: Folder,
    before: String,
}

impl Flakes {
    fn new(name: &str) -> Flakes {
        let folder = Folder::new(&format!("flakes-{name}"));
        folder.sh("mkdir -p git other && echo 1 > git/value && echo 1 > other/value", "").ok();
        let text = FLAKE.replace("OTHER", &folder.path().join("other").display().to_string());
        std::fs::write(folder.path().join("git/flake.nix"), text).unwrap();
        let script = format!(
            "{NIX} flake lock path:$PWD/git && cp -r git path && mkdir -p deep && cp -r git deep/in
             for i in git deep; do (cd $i && git init -q -b main && git add . && {GIT} commit -qm a); done"
        );
        folder.sh(&script, "").ok();
        Flakes { folder, before: "export XDG_CACHE_HOME=$PWD/cache".into() }
    }

    fn sh(&self, script: &str) -> String {
        self.folder.sh(&format!("{}; {script}", self.before), r#"{"name":"a","role":"db"}"#).ok().stdout
    }

    fn push(&self, flags: &str) -> Came {
        let script = format!("{}; nix-push -v --plan {flags}", self.before);
        let ran = self.folder.sh(&script, r#"{"name":"a"}"#).ok();
        let toplevel = ran.record()["plan"][0]["resource"].as_str().unwrap().replace("closure/", "/nix/store/");
        // Why, for where a test fails.
        for line in ran.stderr.lines().filter(|line| line.contains("again")) {
            println!("{line}");
        }
        let lost = ran.stderr.lines().find(|line| line.contains("is not kept for the next run"));
        let said = |words: &str| ran.stderr.contains(words);
        let (evaluated, asked) = (!said("depends on has changed"), said("nix flake metadata"));
        Came { toplevel, evaluated, asked, lost: lost.map(String::from) }
    }

    /// What Nix makes of it.
    fn nix(&self, reference: &str) -> String {
        let script =
            format!("drv=$({NIX} eval --raw \"./{reference}#{TOPLEVEL}.drvPath\") && nix-store --query --outputs $drv");
        self.sh(&script).trim().into()
    }

    /// What is written from now on is written at another time.
    fn settle(&self) {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }

    /// Runs, and sees that the next run need not ask Nix.
    #[track_caller]
    fn is_known(&self, reference: &str) -> Came {
        self.settle();
        self.push(&format!("{reference}#a"));
        let came = self.push(&format!("{reference}#a"));
        assert!(!came.asked, "{reference}: {came:?}");
        came
    }

    /// It is what Nix makes of it, whether it is evaluated or taken from the run before.
    #[track_caller]
    fn same_as_nix(&self, reference: &str) -> Came {
        let came = self.push(&format!("\"{reference}#a\""));
        assert_eq!(came.toplevel, self.nix(reference), "{reference}");
        came
    }
}

const NIX: &str = "nix --extra-experimental-features 'nix-command flakes'";

#[test]
fn a_flake_is_evaluated_again_only_if_its_lock_changes() {
    let flakes = Flakes::new("lock");
    // A Nix with flakes switched off will do.
    std::fs::write(flakes.folder.path().join("nix.conf"), "experimental-features =\nsubstituters =\n").unwrap();
    let flakes = Flakes { before: format!("{}; export NIX_CONF_DIR=$PWD", flakes.before), ..flakes };
    each_change_counts(&flakes, "flake update");

    // What is inside sees as little as with `nix build`; that can be lifted.
    let flakes = Flakes { before: format!("{}; export TEST_VARIABLE=1", flakes.before), ..flakes };
    let pure = flakes.push("path#a").toplevel;
    for _ in 0..2 {
        let impure = flakes.push("--option pure-eval false path#a");
        assert!(impure.evaluated && impure.toplevel != pure, "{impure:?}");
    }
    // With this, they may run any program.
    for _ in 0..2 {
        assert!(flakes.push("--option allow-unsafe-native-code-during-evaluation true path#a").evaluated);
    }
    let text =
        "{ outputs = _: { nixosConfigurations.a.config.system.build.toplevel = builtins.readFile /etc/passwd; }; }";
    std::fs::write(flakes.folder.path().join("path/flake.nix"), text).unwrap();
    let ran = flakes.folder.sh("rm path/flake.lock; nix-push --plan --flake path", r#"{"name":"a"}"#);
    let error = &ran.record()["error"];
    assert!(error["hint"].as_str().unwrap_or_default().contains("pure-eval false"), "{}", ran.stderr);
}

#[test]
fn a_flake_that_holds_a_secret_is_not_copied_to_the_store() {
    let flakes = Flakes::new("secrets");
    let folder = &flakes.folder;
    folder
        .sh("mkdir path/keys elsewhere; for i in path/keys/id path/password elsewhere/id; do echo s > $i; done", "")
        .ok();
    let plan = |before: &str, key: &str, flags: &str| {
        let record = json!({ "name": "a", "keyPair": { "privateKeyFile": key }, "secrets": { "p": "elsewhere/id" } });
        folder.sh(&format!("{}; {before}; {flags}", flakes.before), record.to_string())
    };
    let refused = |ran: Ran, file: &str| {
        let error = &ran.record()["error"];
        assert_eq!(error["kind"], "input", "{}", ran.stderr);
        assert!(error["message"].as_str().unwrap().contains(&format!("{file} lies in the flake")), "{error}");
    };
    refused(plan("true", "path/keys/id", "nix-push --plan --flake path#a"), "path/keys/id");
    refused(plan("true", "path/keys/id", "nix-push --plan --flake \"path:$PWD/path?dir=.#a\""), "path/keys/id");
    refused(
        plan("ln -s ../path/password elsewhere/link", "elsewhere/link", "nix-push --plan --flake path"),
        "elsewhere/link",
    );
    let secret = r#"{"name":"a","secrets":{"password":{"path":"path/password"}}}"#;
    refused(folder.sh("nix-push --plan --flake path", secret), "the secret path/password");
    plan("true", "elsewhere/id", "nix-push --plan --flake path#a").ok();
    // Of a repository counts what git tracks.
    let repository = "cd path && git init -q && git add flake.nix flake.lock value && cd ..";
    plan(repository, "path/keys/id", "nix-push --plan --flake path#a").ok();
    refused(plan("git -C path add keys", "path/keys/id", "nix-push --plan --flake path#a"), "path/keys/id");
}

#[test]
fn a_flake_that_a_private_host_key_lies_in_is_not_copied_to_the_store() {
    let flakes = Flakes::new("host-keys");
    let plan = |before: &str, key: Value, flake: &str| {
        let record = json!({ "name": "a", "keyPair": { "name": "k", "privateKeyFile": key } });
        let command = format!("{}; {before}; nix-push --plan --flake {flake}#a", flakes.before);
        flakes.folder.sh(&command, record.to_string())
    };
    let refused = |ran: Ran| {
        let error = &ran.record()["error"];
        assert_eq!(error["kind"], "input", "{}", ran.stderr);
        let words = ["the private host key ", "default-b.host-key lies in the flake"];
        assert!(words.iter().all(|words| error["message"].as_str().unwrap().contains(words)), "{error}");
    };
    // The ssh-agent has the key: ec2-up wrote it where it was run.
    plan("echo ssh-ed25519 AAAA > path/bastion.host-key", Value::Null, "path").ok();
    let key = "printf '%s\\n' '-----BEGIN OPENSSH PRIVATE KEY-----' s > path/default-b.host-key";
    refused(plan(key, Value::Null, "path"));
    refused(plan("cd path", Value::Null, "path:$PWD"));
    refused(plan("mkdir path/deep; mv path/*.host-key path/deep; cd path/deep", Value::Null, ".."));
    // Beside the key that the record names.
    refused(plan("true", json!("path/deep/id"), "path"));
    // Of a repository counts what git tracks.
    let repository = "cd path; git init -q; git add flake.nix flake.lock value; mv deep/*.host-key .";
    plan(repository, Value::Null, ".").ok();
    refused(plan("cd path; git add .", Value::Null, "."));
}

#[test]
fn the_newest_nix_makes_the_same_of_flakes() {
    if sample(1, 0) == 0 {
        return; // A download of its own: with `scripts/test --all`.
    }
    let flakes = Flakes::new("newest");
    let newest = "/var/lib/nixpipe-cloud/newest-nix";
    flakes.folder.sh(&format!("{}/tests/copy/newest-nix {newest}", project().display()), "").ok();
    // It may change a store so that an older one cannot read it, and gets one of its own in the place of this one.
    flakes.folder.sh("mkdir -p nix/store", "").ok();
    let own = format!(
        "[ -n \"$OWN\" ] || OWN=1 exec unshare --mount bash -c \"mount --bind $PWD/nix /nix; PATH={newest}/bin:$PATH; $BASH_EXECUTION_STRING\""
    );
    let flakes = Flakes { before: format!("{own}; {}", flakes.before), ..flakes };
    assert!(flakes.sh("nix --version").contains("(Nix) 2."));
    each_change_counts(&flakes, "flake update --flake");
    the_record_reaches_each_source(&flakes);
    flakes.folder.sh("chmod -R u+w nix", "").ok();
}

/// What a configuration makes of its record is what the Nix of this computer makes of it, and is kept.
fn the_record_reaches_each_source(flakes: &Flakes) {
    let nixpkgs = project().join("tests/nixpkgs").display().to_string();
    let write = |file: &str, text: &str| std::fs::write(flakes.folder.path().join("system").join(file), text).unwrap();
    flakes.sh("mkdir system");
    write("a.nix", "{ environment.etc.role.text = \"a\"; }");
    write(
        "module.nix",
        "{ machine, ... }: { imports = [ (./. + \"/${machine.name}.nix\") ]; networking.hostName = machine.name;
          system.stateVersion = \"25.11\"; fileSystems.\"/\".device = \"/dev/x\"; boot.loader.grub.device = \"/dev/x\"; }",
    );
    let system = "(import ./eval-config.nix) { inherit system; modules = [ ./module.nix ]; }";
    let system = system.replace("./eval-config.nix", &format!("{nixpkgs}/nixos/lib/eval-config.nix"));
    write("hermetic.nix", &format!("{{ system, machine }}: {system}"));
    write(
        "flake.nix",
        &format!(
            "{{ inputs.nixpkgs.url = \"path:{nixpkgs}\"; outputs = {{ self, nixpkgs }}: {{
               nixosConfigurations.web = nixpkgs.lib.nixosSystem {{ system = \"x86_64-linux\"; modules = [ ./module.nix ]; }}; }}; }}"
        ),
    );
    flakes.sh(&format!("{NIX} flake lock path:$PWD/system"));
    flakes.settle();
    let path = format!("-I nixpkgs={nixpkgs}");
    for source in [&*format!("{path} system/module.nix"), "--hermetic system/hermetic.nix", "--flake system#web"] {
        let (first, next) = (flakes.push(source), flakes.push(source));
        assert!(first.evaluated && !next.evaluated && first.toplevel == next.toplevel, "{source}: {first:?} {next:?}");
        let ran = flakes.folder.sh(&format!("nix-push --plan {source}"), r#"{"name":"a"}"#).ok();
        assert_eq!(first.toplevel.replace("/nix/store/", "closure/"), ran.record()["plan"][0]["resource"], "{source}");
    }
}

/// Each kind of change of a flake is seen, by the way that Nix sees it.
fn each_change_counts(flakes: &Flakes, update: &str) {
    let references = ["git", "deep/in", "path"];
    let mut last = references.map(|reference| {
        // Another test may have just changed what Nix looks at: then nothing is kept.
        let mut lost = None;
        let kept = (0..20).any(|_| {
            flakes.settle();
            lost = flakes.same_as_nix(reference).lost;
            lost.is_none()
        });
        assert!(kept, "{reference}: {lost:?}");
        flakes.same_as_nix(reference).toplevel
    });
    let each = |script: &str| format!("for i in git deep/in path; do (cd $i; {script}); done");
    let git = |script: &str| format!("for i in git deep/in; do (cd $i; {script}); done");
    for (change, changes) in [
        (each("true"), 0),
        (each("echo 2 > value"), 3),
        (each("chmod +x value"), 3),
        // What git does not know.
        (git("echo 1 > new"), 0),
        (git("git add --intent-to-add ."), 2),
        (git(&format!("{GIT} commit -qam b")), 2),
        (git(&format!("{GIT} commit -q --allow-empty -m c")), 2),
        ("echo 3 > path/new".into(), 1),
        ("rm path/new; touch path".into(), 1),
        // An input counts as it is locked.
        ("echo 2 > other/value".into(), 0),
        (format!("for i in git deep/in path; do {NIX} {update} path:$PWD/$i || exit; done"), 3),
    ] {
        flakes.sh(&change);
        let mut seen = 0;
        for (reference, last) in references.iter().zip(&mut last) {
            let next = flakes.same_as_nix(reference);
            let other = next.toplevel != *last;
            // A Nix before 2.19 cannot name a folder of a git tree with changes.
            let unknown = *reference == "deep/in" && !flakes.sh("git -C deep status -s -uno").is_empty();
            assert!(next.evaluated == other || unknown, "{reference} after {change}: {last} {next:?}");
            (seen, *last) = (seen + usize::from(other), next.toplevel);
        }
        assert_eq!(seen, changes, "after {change}");
    }
    for reference in references {
        assert!(!flakes.is_known(reference).asked, "{reference}");
    }
}

#[test]
fn a_file_of_a_flake_that_goes_while_nix_locks_it() {
    let flakes = Flakes::new("goes");
    // Git is asked for the files that it knows when Nix has seen them.
    flakes.sh(
        "mkdir git.d; printf '#!/bin/sh\ncase \"$*\" in *--stage*) rm -f git/value;; esac; exec %s \"$@\"\n' $(command -v git) > git.d/git
         chmod +x git.d/git",
    );
    let flakes = Flakes { before: format!("{}; PATH=$PWD/git.d:$PATH", flakes.before), ..flakes };
    flakes.settle();
    let lost = flakes.push("git#a").lost.unwrap_or_default();
    assert!(lost.contains("the lock is not kept") && lost.ends_with("/git was changed just now"), "{lost}");
}

#[test]
fn a_lock_that_takes_longer_than_it_may_is_ended() {
    let flakes = Flakes::new("late");
    let ran = flakes.folder.sh("nix-push --plan --eval-timeout 1ms git#a", r#"{"name":"a"}"#);
    let error = &ran.record()["error"];
    assert_eq!(error["kind"], "timeout", "{}", ran.stderr);
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("locking git+file:///") && message.ends_with("--eval-timeout allows, 0.001 s"),
        "{message}"
    );
}

#[test]
fn an_unchanged_flake_is_known_without_nix() {
    let flakes = Flakes::new("known");
    flakes.sh("printf 'substituters =\nbuild-users-group =\n' > nix.conf; touch .gitconfig; ln -s . up");
    let mut flakes = Flakes { before: format!("{}; export NIX_CONF_DIR=$PWD", flakes.before), ..flakes };
    flakes.is_known("git");
    flakes.is_known("path");
    for (change, reference) in [
        ("echo 1 > git/new", "git"),
        ("touch git/value", "git"),
        ("echo 'value text' > git/.gitattributes", "git"),
        ("ln -sf value git/link && git -C git add link", "git"),
        ("rm git/link", "git"),
        ("git -C git checkout -q -- . && git -C git checkout -qb other", "git"),
        ("git -C git commit -q --amend -m other --author='b <b@example.org>'", "git"),
        ("git -C git pack-refs --all", "git"),
        ("git -C git config core.fileMode false", "git"),
        ("echo '[core]' > .gitconfig", "git"),
        ("mv git/value git/x && mv git/x git/value", "git"),
        ("touch -d 2020-01-01 path/value", "path"),
        ("mkdir path/empty", "path"),
        ("rm path/value && ln -s flake.nix path/value", "path"),
        ("echo 'warn-dirty = false' >> nix.conf", "path"),
    ] {
        flakes.sh(&format!("{COMMITTER}; {change}"));
        flakes.settle();
        let next =
            if sample(1, 0) == 0 { flakes.push(&format!("{reference}#a")) } else { flakes.same_as_nix(reference) };
        // What git does not know changes nothing.
        assert_eq!(next.asked, !change.ends_with("git/new"), "after {change}: {next:?}");
        if next.lost.is_some() {
            // Git has written its index anew.
            flakes.is_known(reference);
        }
    }
    // What it was copied to is gone.
    flakes.sh("echo 5 > git/value");
    let dirty = flakes.is_known("git");
    let copies = "grep -ho 'path:/nix/store/[^?]*' cache/nixpipe/locks/* | cut -d: -f2 | sort -u";
    flakes.sh(&format!("nix-store --delete $(nix-store --query --referrers-closure $({copies}))"));
    assert_eq!(flakes.same_as_nix("git"), Came { asked: true, evaluated: true, ..dirty });
    flakes.is_known("git");
    flakes.before += "; export NIX_CONFIG='warn-dirty = true'";
    assert!(flakes.push("git#a").asked);

    // Where that cannot be certain.
    flakes.sh("cp -r git sub && git -C sub -c protocol.file.allow=always submodule --quiet add $PWD/deep deep");
    flakes.sh("git -C deep worktree add -q ../tree HEAD");
    flakes.settle();
    for reference in ["path:$PWD/up/path", "sub", "tree/in", "git+file://$PWD/git?ref=other"] {
        let twice = [(); 2].map(|()| flakes.push(&format!("\"{reference}#a\"")).asked);
        assert_eq!(twice, [true; 2], "{reference}");
    }
    // Nor with another nix, a git that speaks otherwise, or an ldd that cannot be run. (A Nix of the store asks ldd if that is set.)
    let before = format!("{}; export LD_LIBRARY_PATH=/nowhere", flakes.before);
    flakes.sh(r#"mkdir nix.d git.d ldd.d
        printf '#!/bin/sh\nexec %s "$@"\n' $(command -v nix) > nix.d/nix
        printf '#!/bin/sh\ncase "$*" in *--stage*) echo odd;; *) exec %s "$@";; esac\n' $(command -v git) > git.d/git
        echo odd > ldd.d/ldd; chmod +x nix.d/nix git.d/git ldd.d/ldd"#);
    for (program, why) in [
        ("nix", "nix and nix-instantiate are two programs"),
        ("git", "cannot understand git ls-files"),
        ("ldd", "a Nix whose libraries nobody tells: ldd: "),
    ] {
        // What is known of the runs before is elsewhere.
        flakes.before = format!("{before}; export XDG_CACHE_HOME=$PWD/{program}.cache PATH=$PWD/{program}.d:$PATH");
        let lost = flakes.push("git#a").lost.unwrap();
        assert!(lost.contains("the lock is not kept") && lost.contains(why), "{lost}");
    }
}
