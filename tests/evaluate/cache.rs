//! An evaluation is taken from an earlier run only if nothing that it depends on has changed.

use std::time::Duration;
use tests::Folder;

/// A system that takes milliseconds to evaluate, and depends on `{}`.
const SYSTEM: &str = r#"{ machine, ... }: {
  config.system.build.toplevel = derivation {
    name = "nixos-system-test"; system = "x86_64-linux"; builder = "/bin/sh"; value = builtins.toJSON [ ({}) ];
  };
}"#;

/// A folder with a configuration, where evaluations are kept.
struct Case {
    folder: Folder,
    /// Variables and flags of every run
    before: String,
    flags: String,
}

/// What one run came to.
#[derive(Clone, Debug, PartialEq)]
struct Came {
    toplevel: String,
    evaluated: bool,
    /// Whether something was kept, and did not hold
    refused: bool,
}

impl Case {
    fn new(name: &str, expression: &str) -> Case {
        let folder = Folder::new(&format!("cache-{name}"));
        folder
            .sh("mkdir -p conf tree/deep && echo 1 > file && echo 1 > tree/deep/file && echo '{ }' > other.nix", "")
            .ok();
        // No cache is asked for what nobody has built, and no user is needed to build.
        std::fs::write(folder.path().join("conf/nix.conf"), "substituters =\nbuild-users-group =\nsandbox = false\n")
            .unwrap();
        std::fs::write(folder.path().join("system.nix"), SYSTEM.replace("{}", expression)).unwrap();
        let before = "export NIX_CONF_DIR=$PWD/conf NIX_PATH=here=$PWD/tree XDG_CACHE_HOME=$PWD/cache".into();
        Case { folder, before, flags: "--hermetic system.nix".into() }
    }

    fn record(&self, flags: &str, record: &str) -> Came {
        let script = format!("{}; nix-push -v --plan {} {flags}", self.before, self.flags);
        let ran = self.folder.sh(&script, record);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let toplevel = ran.record()["plan"][0]["resource"].as_str().unwrap().to_string();
        let said = |words: &str| ran.stderr.contains(words);
        // Why, for where a test fails.
        for line in ran.stderr.lines().filter(|line| line.contains("again: ") || line.contains("is not kept")) {
            println!("{line}");
        }
        // What Nix says of what it builds, it says only because it is watched.
        assert!(!said("executing builder") && !said("using builder args"), "{}", ran.stderr);
        let evaluated = said(" nix-instantiate --eval ");
        assert_ne!(evaluated, said("depends on has changed"), "{}", ran.stderr);
        Came { toplevel, evaluated, refused: said("evaluating again: ") }
    }

    fn run(&self) -> Came {
        self.record("", r#"{"name":"a"}"#)
    }

    /// Runs a shell command, and lets the clock of the file system go on.
    fn change(&self, script: &str) {
        self.folder.sh(script, "").ok();
        std::thread::sleep(Duration::from_millis(100));
    }

    /// Evaluates, and sees that the next run need not.
    #[track_caller]
    fn is_kept(&self) -> Came {
        self.change("true");
        let first = self.run();
        assert!(first.evaluated);
        assert_eq!(self.run(), Came { evaluated: false, refused: false, ..first.clone() });
        first
    }

    /// What was kept is found, and refused; what it comes to now is something else.
    #[track_caller]
    fn is_evaluated_again(&self, first: &Came) -> Came {
        let next = self.run();
        assert!(next.evaluated && next.refused, "the change was not seen");
        assert_ne!(next.toplevel, first.toplevel, "the test changes nothing");
        next
    }
}

#[test]
fn each_way_to_look_at_a_file_is_seen() {
    let deep = |value: u8| format!("echo {value} > tree/deep/file");
    let file = |name: &str| format!("echo 2 > {name}");
    let made = |name: &str| {
        format!(
            "(import (derivation {{ name = \"made\"; system = builtins.currentSystem; builder = \"/bin/sh\"; file = ./files/{name};
               args = [ \"-c\" \"read x < $file; echo $x > $out\" ]; }}))"
        )
    };
    // Each looks at something of its own.
    let (one, two) = (made("s"), format!("[ {0} {0} ]", made("t")));
    let ways: Vec<(&str, String)> = vec![
        ("import ./files/a.nix", file("files/a.nix")),
        ("import ./files", file("files/default.nix")),
        ("[ (import ./files/b.nix) (import (./. + \"/files/b.nix\")) ]", file("files/b.nix")),
        ("builtins.scopedImport { x = 1; } ./files/c.nix", file("files/c.nix")),
        ("builtins.scopedImport { } ./files/d.nix", file("files/read-by-d")),
        ("builtins.readFile ./files/e", file("files/e")),
        ("builtins.readFile (toString ./files + \"/deep/../f\")", file("files/f")),
        ("__readFile ./files/g", file("files/g")),
        ("with builtins; readFile ./files/h", file("files/h")),
        ("builtins.builtins.readFile ./files/i", file("files/i")),
        ("map builtins.readFile [ ./files/j ]", file("files/j")),
        ("builtins.hashFile \"sha256\" ./files/k", file("files/k")),
        ("builtins.readDir ./list", "touch list/new".into()),
        ("builtins.readDir ./kinds", "rm kinds/a; mkdir kinds/a".into()),
        ("builtins.pathExists ./absent", "touch absent".into()),
        ("builtins.pathExists ./nowhere/a/b", "mkdir -p nowhere/a/b".into()),
        ("builtins.pathExists ./files/l", "rm files/l".into()),
        ("\"${./files/m}\"", file("files/m")),
        ("\"${./files/n}\"", "chmod +x files/n".into()),
        ("builtins.hashString \"sha256\" \"${./files/o}\"", file("files/o")),
        ("{ a = ./files/p; }", file("files/p")),
        ("\"${./tree}\"", deep(2)),
        ("\"${./tree}\"", "mkdir tree/deep/er".into()),
        ("\"${./tree}\"", "rm tree/deep/file; ln -s x tree/deep/file".into()),
        ("builtins.path { path = ./two; name = \"t\"; filter = p: t: true; }", file("two/deep/file")),
        ("builtins.filterSource (p: t: baseNameOf p != \"x\") ./three", file("three/deep/file")),
        ("builtins.readFile <here/deep/file>", file("four/deep/file")),
        ("(builtins.tryEval <here/new>).success", "touch four/new".into()),
        (
            "builtins.findFile [ { path = ./five; prefix = \"\"; } { path = ./four; prefix = \"\"; } ] \"deep\"",
            "mkdir -p five/deep".into(),
        ),
        (
            "(builtins.readFileType or (builtins.hashFile \"sha256\")) ./files/q",
            "rm files/q; echo 2 > files/r; ln -s r files/q".into(),
        ),
        ("builtins.storePath ./stored", "ln -sfn $(nix-store --add files/a) stored".into()),
        // Built first, and again for what it is made of; Nix tells of a path where it is imported, too.
        (&one, file("files/s")),
        (&two, file("files/t")),
    ];
    let all: String = ways.iter().map(|(way, _)| format!("({way})\n")).collect();
    let mut case = Case::new("ways", &format!("[ {all} ]"));
    case.before = case.before.replace("here=$PWD/tree", "here=$PWD/four");
    case.change(
        "mkdir -p files/deep list kinds; cd files; for i in a b c d e f g h i j k l m n o p q r s t default; do echo 1 > $i; echo 1 > $i.nix; done
         echo 'builtins.readFile ./read-by-d' > d.nix; echo 1 > read-by-d; cd ..; touch kinds/a; ln -s $(nix-store --add tree) stored; for i in two three four; do cp -r tree $i; done",
    );
    let mut last = case.is_kept();
    for (way, change) in ways {
        case.change(&change);
        let next = case.run();
        assert!(next.evaluated && next.refused && next.toplevel != last.toplevel, "{way} after {change}: {next:?}");
        last = next;
    }
    assert_eq!(case.record("--no-eval-cache", r#"{"name":"a"}"#).toplevel, last.toplevel);
}

#[test]
fn a_name_that_nix_cannot_tell() {
    let ways = ["\"${path + \"/file\"}\"", "builtins.readFile (path + \"/file\")", "builtins.readDir path"];
    // Bytes that are no UTF-8, and what a terminal would take for a command.
    for (at, name) in ["a\\377", "a\\033[1mb"].iter().enumerate() {
        let odd = format!("odd/\"$(printf '{name}')\"");
        for (way, expression) in ways.iter().enumerate() {
            let text = format!(
                "map (name: let path = ./odd + \"/${{name}}\"; in {expression}) (builtins.attrNames (builtins.readDir ./odd))"
            );
            let case = Case::new(&format!("odd-{at}-{way}"), &text);
            case.change(&format!("mkdir -p {odd}; echo 1 > {odd}/file"));
            let first = case.run();
            case.change(&format!("echo 2 > {odd}/file; touch {odd}/new"));
            assert_ne!(case.run().toplevel, first.toplevel, "{name}: {expression}");
        }
    }
}

#[test]
fn a_link_that_leads_elsewhere() {
    let case = Case::new("link", "import ./link/value.nix");
    case.change("mkdir one two; for i in one two; do echo 'import ./more.nix' > $i/value.nix; echo \"\\\"$i\\\"\" > $i/more.nix; done; ln -s one link");
    let first = case.is_kept();
    // What is read first is the same file by content, and in a folder of another content.
    case.change("ln -sfn two link");
    case.is_evaluated_again(&first);
    case.change("rm link; mv one link; echo '\"three\"' > link/more.nix");
    case.is_evaluated_again(&first);
}

#[test]
fn an_environment_variable_that_is_used() {
    let mut case = Case::new("variable", r#"builtins.getEnv "TEST_${"VARIABLE"}""#);
    let mut last = case.is_kept();
    let before = case.before.clone();
    for value in ["1", "2"] {
        case.before = format!("{before}; export TEST_VARIABLE={value}");
        last = case.is_evaluated_again(&last);
    }
    // Other variables are nobody's business.
    case.before += "; export TEST_OTHER=1";
    assert!(!case.run().evaluated);
}

#[test]
fn who_writes_beside_the_settings_meanwhile_changes_nothing() {
    let built = "derivation { name = \"beside\"; system = builtins.currentSystem; builder = \"/bin/sh\";
        args = [ \"-c\" \"> ${toString ./conf}/new && echo 1 > $out\" ]; }";
    let case = Case::new("beside", &format!("import ({built})"));
    case.is_kept();
    assert!(case.folder.path().join("conf/new").exists());
}

#[test]
fn what_nix_is_started_with() {
    let nixpkgs = format!("{}/tests/nixpkgs", tests::project().display());
    let words = "--expr '{ lib, word, ... }: { networking.hostName = word; imports = [ ./more.nix ]; }'";
    for (name, expression, before, flags) in [
        ("search-path", "(builtins.tryEval <here/tree>).success", "NIX_PATH=here=$PWD", ""),
        ("search-flag", "(builtins.tryEval <here/tree>).success", "", "-I here=$PWD"),
        ("config", "builtins.currentSystem", "export NIX_CONFIG='system = i686-linux'", ""),
        ("conf", "builtins.currentSystem", "echo 'system = i686-linux' >> conf/nix.conf", ""),
        ("config-more", "builtins.currentSystem", "echo 'system = i686-linux' > conf/given", ""),
        ("conf-more", "builtins.currentSystem", "echo 'system = i686-linux' > conf/more", ""),
        (
            "conf-user",
            "builtins.currentSystem",
            "mkdir -p .config/nix; echo 'system = i686-linux' > .config/nix/nix.conf",
            "",
        ),
        ("conf-home", "builtins.currentSystem", "echo 'system = i686-linux' > home/nix.conf", ""),
        ("option", "builtins.currentSystem", "", "--option system i686-linux"),
        ("channel", "(builtins.tryEval <fresh>).success", "mkdir -p .nix-defexpr/channels/fresh", ""),
        ("home", "toString ~/x", "export HOME=$PWD/tree", ""),
        ("argument", "", "", "--argstr word b"),
        ("folder", "", "cd tree", ""),
    ] {
        let mut case = Case::new(&format!("start-{name}"), expression);
        let module = "echo '{ imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ]; networking.domain = \"'$PWD'\"; }' > more.nix";
        case.change(&format!("echo 'include more' >> conf/nix.conf; touch conf/more; {module}; cd tree; {module}"));
        if expression.is_empty() {
            case.before += &format!("; NIX_PATH=nixpkgs={nixpkgs}");
            case.flags = format!("{words} --argstr word a");
        }
        case.before += match name {
            "config-more" => "; export NIX_CONFIG=\"!include $PWD/conf/given\"",
            "channel" => "; unset NIX_PATH",
            "conf-home" => "; mkdir -p home; export NIX_CONFIG_HOME=$PWD/home",
            _ => "",
        };
        let first = case.is_kept();
        case.before += &format!("; {}", if before.is_empty() { "true" } else { before });
        if name == "argument" {
            case.flags = words.into();
        }
        case.flags += &format!(" {flags}");
        std::thread::sleep(Duration::from_millis(100));
        let next = case.run();
        // Only newer Nix reads that one.
        let other = next.toplevel != first.toplevel || name == "conf-home";
        assert!(next.evaluated && other, "{name}: {next:?}");
    }
}

#[test]
fn a_home_of_somebody_else_is_one_that_not_every_nix_takes() {
    let mut case = Case::new("foreign", "1");
    case.before += "; export HOME=$PWD/own";
    case.change("mkdir own");
    case.is_kept();
    // As with sudo -E.
    case.change("chown 65534 own");
    assert!(case.run().evaluated && case.run().evaluated);
    case.change("chown 0 own");
    assert!(!case.run().evaluated);
}

#[test]
fn another_nix_is_another_evaluation() {
    let mut case = Case::new("nix", "1");
    case.change("mkdir bin; printf '#!/bin/sh\nexec %s \"$@\"\n' \"$(command -v nix-instantiate)\" > bin/nix-instantiate; chmod +x bin/*");
    case.is_kept();
    case.before += "; PATH=$PWD/bin:$PATH";
    assert!(case.run().evaluated);
    assert!(!case.run().evaluated);
    case.change("echo '# newer' >> bin/nix-instantiate");
    assert!(case.run().evaluated && !case.run().evaluated);
    // What it runs.
    case.change("mkdir real; cp -L $(command -v nix-instantiate) real; sed -i \"s,exec .*/,exec $PWD/real/,\" bin/nix-instantiate");
    assert!(case.run().evaluated && !case.run().evaluated);
    case.change("touch real/nix-instantiate");
    assert!(case.run().evaluated && !case.run().evaluated);
    // One that does more may set what Nix reads, or read what nobody tells.
    case.change("sed -i 's,^exec,. ./file; exec,' bin/nix-instantiate; echo NIX_PATH= > file");
    assert!(case.run().evaluated && case.run().evaluated);
    // A library that it loads.
    case.change(
        "mkdir lib; cp $(ldd $(command -v nix-instantiate) | sed -n 's/.* => \\(.*libnixexpr.so\\) .*/\\1/p') lib",
    );
    case.before = case.before.replace("PATH=$PWD/bin:$PATH", "export LD_LIBRARY_PATH=$PWD/lib");
    assert!(case.run().evaluated && !case.run().evaluated);
    case.change("echo newer >> lib/libnixexpr.so");
    assert!(case.run().evaluated && !case.run().evaluated);
}

#[test]
fn facts_count_if_they_are_used() {
    let case = Case::new("facts", "[ machine.role (builtins.attrNames machine.sizes) ]");
    let run = |role: &str, sizes: &str| {
        let record = format!(r#"{{"name":"a","role":"{role}","sizes":{sizes},"other":{}}}"#, role.len());
        case.record("", &record)
    };
    case.change("true");
    let first = run("db", r#"{"x":1}"#);
    assert!(first.evaluated);
    assert!(
        !case.record("", r#"{"role":"db","name":"b","sizes":{"x":2},"other":7}"#).evaluated,
        "what was not looked at"
    );
    let next = run("web", r#"{"x":1}"#);
    assert!(next.evaluated && next.toplevel != first.toplevel);
    let next = run("db", r#"{"x":1,"y":1}"#);
    assert!(next.evaluated && next.toplevel != first.toplevel);
    // All of them are kept.
    assert!(!run("db", r#"{"x":1}"#).evaluated);
}

#[test]
fn what_cannot_be_certain_is_never_kept() {
    for (name, expression) in [
        ("time", "builtins.currentTime"),
        (
            "tree",
            "(builtins.fetchTree { type = \"path\"; path = toString ./tree; rev = \"0123456789012345678901234567890123456789\"; }).outPath",
        ),
        ("git", "builtins.readDir (builtins.fetchGit ./repository)"),
        ("proc", "builtins.readFile /proc/self/stat"),
        ("far", "builtins.fetchTarball \"file://${toString ./archive.tar}\""),
        ("flake", "builtins.attrNames (builtins.getFlake \"path:${toString ./flake}\")"),
    ] {
        let mut case = Case::new(&format!("never-{name}"), expression);
        case.flags += " --option extra-experimental-features flakes";
        case.change(
            "git init -q repository && git -C repository -c user.name=a -c user.email=a@example.org commit -q --allow-empty -m a
             tar cf archive.tar tree; mkdir flake; echo '{ outputs = { self }: { }; }' > flake/flake.nix",
        );
        for _ in 0..2 {
            assert!(case.run().evaluated, "{name}");
        }
    }
}

#[test]
fn what_nix_is_not_allowed_to_look_at() {
    let mut case = Case::new("restricted", "builtins.readFile ./file");
    case.before = case.before.replace("NIX_PATH=", "NIX_PATH=all=$PWD:");
    case.flags += " --option restrict-eval true";
    for _ in 0..2 {
        assert!(case.run().evaluated);
    }
    case.before = case.before.replace("all=$PWD:", "");
    let script = format!("{}; nix-push --plan {}", case.before, case.flags);
    let error = case.folder.sh(&script, r#"{"name":"a"}"#).record()["error"]["message"].to_string();
    assert!(error.contains("system.nix' is forbidden in restricted mode"), "{error}");
}

#[test]
fn a_file_that_changes_while_nix_evaluates() {
    // It is read at once; then Nix is busy for a while.
    let busy = "builtins.foldl' (a: b: a + b) 0 (builtins.genList (x: x) 1500000)";
    let case = Case::new("race", &format!("let x = builtins.readFile ./file; in builtins.seq x [ ({busy}) x ]"));
    for (round, wait) in ["0.1", "0.3", "0.6"].iter().enumerate() {
        let script = format!(
            "{}; sleep 0.1; echo '{{\"name\":\"a\"}}' > record; nix-push -q --plan {} < record > out & sleep {wait}; echo new-{round} > file; wait $!",
            case.before, case.flags
        );
        case.folder.sh(&script, "").ok();
        let next = case.run();
        assert_eq!(next.toplevel, case.record("--no-eval-cache", r#"{"name":"a"}"#).toplevel, "changed after {wait} s");
    }
}

#[test]
fn what_comes_or_goes_while_nix_evaluates() {
    let mut missed = Vec::new();
    // Each is looked at, then changed by what is built, and the evaluation goes on.
    for (name, looks, change) in [
        ("file", "builtins.readFile ./gone", "rm gone"),
        ("import", "import ./files", "rm files/default.nix"),
        ("folder", "builtins.readDir ./list", "rmdir list"),
        ("deep", "builtins.readFile ./files/deep/a", "rm -r files/deep"),
        ("search", "import <x>", "rm one/x/default.nix one/x/a; rmdir one/x"),
        ("search-earlier", "import <y>", "echo 3 > one/y"),
        ("search-nothing", "(builtins.tryEval <z>).success", "echo 3 > two/z"),
        ("settings", "builtins.currentSystem", "rm conf/more"),
        ("settings-user", "builtins.currentSystem", "rm own/nix/nix.conf"),
    ] {
        let mut case = Case::new(
            &format!("comes-{name}"),
            &format!(
                "let x = {looks}; in builtins.seq x [ x (import (derivation {{ name = \"waited\"; system = builtins.currentSystem; builder = \"/bin/sh\";
                   args = [ \"-c\" \"export PATH=/bin:/usr/bin; cd ${{toString ./.}} && {change}; echo 1 > $out\" ]; }})) ]"
            ),
        );
        case.before += "; export NIX_PATH=$PWD/one:$PWD/two XDG_CONFIG_HOME=$PWD/own";
        case.change(
            "mkdir -p files/deep list one/x two/x own/nix; for i in gone files/default.nix files/deep/a one/x/a; do echo 1 > $i; done
             echo 1 > one/x/default.nix; for i in x/default.nix y; do echo 2 > two/$i; done
             for i in conf/more own/nix/nix.conf; do echo 'connect-timeout = 7' > $i; done; echo '!include more' >> conf/nix.conf",
        );
        assert!(case.run().evaluated);
        // What was built is there now. It may fail for what is gone.
        std::thread::sleep(Duration::from_millis(100));
        let ran = case.folder.sh(&format!("{}; nix-push -v --plan {}", case.before, case.flags), r#"{"name":"a"}"#);
        if !ran.stderr.contains(" evaluating ") {
            missed.push(name);
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}

#[test]
fn a_file_that_nix_has_in_itself() {
    let case = Case::new("own", "[ (builtins.isFunction (import <nix/fetchurl.nix>)) (import <here/deep/x.nix>) ]");
    case.change("echo 1 > tree/deep/x.nix");
    let first = case.is_kept();
    case.change("echo 2 > tree/deep/x.nix");
    case.is_evaluated_again(&first);
}

#[test]
fn a_file_that_holds_the_same_is_the_same() {
    let case = Case::new("same", "[ (builtins.readFile ./file) (builtins.readDir ./tree) ]");
    case.is_kept();
    case.change("cp file copy; mv copy file; touch tree/x; rm tree/x");
    assert!(!case.run().evaluated);
    assert!(!case.run().evaluated);
}

#[test]
fn a_derivation_that_is_gone_is_made_again() {
    let case = Case::new("gone", "\"gone\"");
    let first = case.is_kept();
    let instantiate =
        "nix-instantiate --expr '((import ./system.nix) { machine = { }; }).config.system.build.toplevel'";
    let drv = case.folder.sh(&format!("{instantiate} 2>/dev/null"), "").ok().stdout;
    case.folder.sh(&format!("nix-store --delete {}", drv.trim()), "").ok();
    let next = case.run();
    assert!(next.evaluated && next.refused && next.toplevel == first.toplevel, "{next:?}");
}

#[test]
fn an_evaluation_that_holds_starts_no_nix_to_evaluate() {
    let case = Case::new("none", "1");
    case.is_kept();
    // A damaged cache is an empty one.
    case.change("find cache -type f | while read f; do head -c 40 $f > x; cp x $f; done");
    assert!(case.run().evaluated && !case.run().evaluated);
    // What it depended on is older than what is kept of it, and went first.
    case.change("rm -r cache/nixpipe/inputs");
    assert!(case.run().evaluated && !case.run().evaluated);
    assert!(case.record("--no-eval-cache", r#"{"name":"a"}"#).evaluated);
}

#[test]
fn a_folder_that_cannot_be_written_to_keeps_nothing() {
    let case = Case::new("full", "1");
    // Room for no more than the beginning of a file.
    case.change("mkdir cache; mount -t tmpfs -o size=4k none cache");
    let full = [case.run(), case.run()];
    let left = case.folder.sh("find cache -type f; umount cache", "").ok().stdout;
    assert!(full.iter().all(|came| came.evaluated) && left.is_empty(), "{full:?} {left}");
    let case = Case { before: case.before.replace("XDG_CACHE_HOME=$PWD/cache", "XDG_CACHE_HOME= HOME="), ..case };
    assert!(case.run().evaluated && case.run().evaluated);
    assert!(!case.folder.path().join(".cache").exists(), "an empty HOME is not the current folder");
}

#[test]
fn nobody_else_can_read_what_is_kept() {
    let case = Case::new("private", "builtins.getEnv \"TEST_SECRET\"");
    let case = Case { before: format!("{}; umask 000; export TEST_SECRET=hush-hush", case.before), ..case };
    case.is_kept();
    let open = case.folder.sh("find cache/nixpipe/* -perm /077; grep -rl hush-hush cache; true", "").ok();
    assert_eq!(open.stdout, "");
}

#[test]
fn warnings_of_the_configuration_are_said_again() {
    // What is built for it is built once.
    let case = Case::new(
        "said",
        "let made = import (derivation { name = \"made\"; system = builtins.currentSystem; builder = \"/bin/sh\"; once = toString ./.;
           args = [ \"-c\" \"echo hello; echo 1 > $out\" ]; }); in builtins.trace \"warning: old option\\nof two lines\" made",
    );
    for built in [true, false] {
        std::thread::sleep(Duration::from_millis(100));
        let script = format!("{}; nix-push --plan {}", case.before, case.flags);
        let ran = case.folder.sh(&script, r#"{"name":"a"}"#).ok();
        let said = |words: &str| ran.stderr.contains(&format!("a: nix: {words}"));
        assert!(said("trace: warning: old option") && said("of two lines"), "{}", ran.stderr);
        assert!(said("building '") == built && said("hello") == built, "{}", ran.stderr);
    }
    assert!(!case.run().evaluated);
}
