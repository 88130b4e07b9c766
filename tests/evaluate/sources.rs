//! Where a configuration comes from, and what reaches it.

use crate::machine::{Machines, toplevel};
use serde_json::{Value, json};
use tests::{Folder, Ran, cloud, project};

/// A NixOS that says which member of the record it found, as every source of a configuration can.
const MODULE: &str = r#"{ lib, machine, ... }: {
  imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> (./roles + "/${machine.role}.nix") ];
  networking.hostName = machine.name;
}"#;

fn role(name: &str) -> String {
    format!("{{ environment.etc.role.text = \"{name}\"; system.stateVersion = \"20.09\"; }}")
}

/// The same for a flake, which knows no search path.
fn flake() -> String {
    let nixpkgs = project().join("tests/nixpkgs");
    format!(
        r#"{{
  inputs.nixpkgs.url = "path:{}";
  outputs = {{ self, nixpkgs }}: {{
    nixosConfigurations.web = nixpkgs.lib.nixosSystem {{ system = "x86_64-linux"; modules = [ ./module.nix ]; }};
  }};
}}"#,
        nixpkgs.display()
    )
}

#[test]
fn each_source_reaches_the_machine_and_sees_its_record() {
    let machines = Machines::new("source", 1);
    machines.write("configuration.nix", MODULE);
    machines.write("folder/default.nix", &MODULE.replace("./roles", "../roles"));
    for name in ["db", "web", "ü"] {
        machines.write(&format!("roles/{name}.nix"), &role(name));
    }
    let nixpkgs = project().join("tests/nixpkgs");
    machines.write(
        "hermetic.nix",
        &format!(
            "{{ system, machine }}: import {}/nixos/lib/eval-config.nix {{ inherit system; modules = [ ./configuration.nix ]; }}",
            nixpkgs.display()
        ),
    );
    machines.write("set.nix", &format!("import {}/nixos {{ configuration = ./plain.nix; }}", nixpkgs.display()));
    machines.write(
        "plain.nix",
        &MODULE
            .replace("lib, machine, ...", "...")
            .replace("machine.role", "\"web\"")
            .replace("machine.name", "\"a\"")
            .replace("${\"web\"}", "web"),
    );
    machines.write("flake/flake.nix", &flake());
    machines.write(
        "flake/module.nix",
        &MODULE.replace("lib, machine, ...", "machine, modulesPath, ...").replace(
            "<nixpkgs/nixos/modules/virtualisation/amazon-image.nix>",
            "\"${modulesPath}/virtualisation/amazon-image.nix\"",
        ),
    );
    for name in ["db", "web"] {
        machines.write(&format!("flake/roles/{name}.nix"), &role(name));
    }
    let lock = "nix --extra-experimental-features 'nix-command flakes' flake lock ./flake";
    let unlocked = machines.push("--flake flake#web", &json!({ "role": "db" })).record();
    assert!(unlocked["error"]["hint"].as_str().unwrap().contains("nix flake lock"), "{unlocked}");
    assert!(!machines.folder.path().join("flake/flake.lock").exists());
    machines.folder.sh(lock, "").ok();
    machines.folder.sh("cp -r flake repository && cd repository && git init -q && git add .", "").ok();

    let db = json!({ "role": "db" });
    let check = |ran: Ran, role: &str, what: &str| {
        let ran = ran.ok();
        let closure = ran.record()["closure"].clone();
        assert!(closure["sentPaths"].is_number(), "{what}: {closure}");
        let there = machines.ssh(0, &format!("nix-store --check-validity {0} && cat {0}/etc/role", toplevel(&ran)));
        assert_eq!(there.ok().stdout, role, "{what}: {}", ran.stderr);
    };
    for flags in [
        "configuration.nix",
        "folder",
        "--hermetic hermetic.nix",
        "--flake ./flake#web",
        "--flake path:$PWD/flake#web",
        "--flake repository#web",
        "repository#web",
        "--expr '{ machine, ... }: { imports = [ ./configuration.nix ]; }'",
    ] {
        check(machines.push(flags, &db), "db", flags);
    }
    // The flags go before the environment.
    machines.folder.sh(&format!("ln -s {} nixpkgs", nixpkgs.display()), "").ok();
    for flag in ["--nixpkgs ./nixpkgs", "-I nixpkgs=nixpkgs"] {
        let command = format!("NIX_PATH=nixpkgs=/nowhere nix-push {flag} configuration.nix");
        check(machines.run(&command, &db), "db", flag);
    }
    check(machines.push("--hermetic set.nix", &db), "web", "a set");
    // The record's own wins over the command line, for each machine.
    check(
        machines.push("--expr '{ }: abort \"x\"'", &json!({ "role": "ü", "configuration": "configuration.nix" })),
        "ü",
        "own",
    );
    check(
        machines.push("configuration.nix", &json!({ "role": "db", "configuration": "flake#web" })),
        "db",
        "own flake",
    );
    // The name is the machine's unless said.
    machines.folder.sh("sed -i s/nixosConfigurations.web/nixosConfigurations.source-1/ flake/flake.nix", "").ok();
    check(machines.push("--flake flake", &db), "db", "named");
    // Built already.
    let built = toplevel(&machines.push("configuration.nix --keep-result kept", &json!({ "role": "web" })).ok());
    let kept = machines.folder.path().join("kept/source-1");
    assert_eq!(std::fs::read_link(&kept).unwrap().to_str(), Some(built.as_str()));
    for flags in [format!("--toplevel {built}"), "--toplevel kept/source-1".into(), "kept/source-1".into()] {
        check(machines.push(&flags, &db), "web", &flags);
    }
}

/// Evaluates a system that holds the JSON of an expression, and gives what it holds.
fn value(folder: &Folder, expression: &str, record: &str) -> Result<Value, Ran> {
    let text = format!(
        "{{ machine }}: {{ config.system.build.toplevel = derivation {{ name = \"nixos-system-{}\"; system = \"x86_64-linux\";
          builder = \"/bin/sh\"; value = builtins.toJSON ({expression}); }}; }}",
        std::process::id()
    );
    std::fs::write(folder.path().join("value.nix"), text).unwrap();
    let ran = folder.sh("nix-push --plan --hermetic value.nix", record);
    // A machine that cannot be asked has a plan as far as it is known.
    if !ran.stdout.contains("\"plan\":[{") {
        return Err(ran);
    }
    let drv = ran.record()["plan"][0]["details"]["build"][0].as_str().unwrap().to_string();
    let show = format!("nix --extra-experimental-features nix-command show-derivation {drv}");
    let shown: Value = serde_json::from_str(&folder.sh(&show, "").ok().stdout).unwrap();
    Ok(serde_json::from_str(shown[&drv]["env"]["value"].as_str().unwrap()).unwrap())
}

#[test]
fn every_type_of_value_arrives_as_it_was() {
    let folder = Folder::new("values");
    for text in [
        r#""${machine.name} $$ '' ''${x} \\ \" \n \t end""#,
        r#""ü € 😀 \u00e9 \ud83d\ude00""#,
        "\"\"",
        "true",
        "false",
        "null",
        "0",
        "-7",
        "9223372036854775807",
        "-9223372036854775808",
        "2.5",
        "-1e-3",
        "[]",
        "{}",
        r#"[1,[2,[3,{"a":null}]],"x"]"#,
        r#"{"with space":1,"${x}":{"ü":[true]},"a\"b":2,"":3}"#,
    ] {
        let there = value(&folder, "machine.x", &format!("{{\"name\":\"a\",\"x\":{text}}}")).unwrap();
        assert_eq!(there, serde_json::from_str::<Value>(text).unwrap(), "{text}");
    }
    let types =
        "map builtins.typeOf [ machine.x.s machine.x.i machine.x.f machine.x.b machine.x.n machine.x.l machine.x ]";
    let record = r#"{"name":"a","x":{"s":"1","i":1,"f":1.0,"b":true,"n":null,"l":[]}}"#;
    assert_eq!(
        value(&folder, types, record).unwrap(),
        json!(["string", "int", "float", "bool", "null", "list", "set"])
    );
}

#[test]
fn what_nix_would_bend_is_refused() {
    let folder = Folder::new("bent");
    for text in ["9223372036854775808", "-9223372036854775809", "1e999", r#""a\u0000b""#, r#"[{"k\u0000":1}]"#] {
        let ran = value(&folder, "machine.x or 1", &format!("{{\"name\":\"a\",\"x\":{text}}}")).unwrap_err();
        // The record goes on as it came, with a number that this test cannot hold either.
        let line = ran.stdout.trim();
        assert!(line.starts_with(&format!("{{\"version\":1,\"name\":\"a\",\"x\":{text},")), "{line}");
        assert!(line.contains(r#""kind":"input","message":"Nix cannot hold"#), "{line}");
    }
}

#[test]
fn a_megabyte_of_facts_arrives_by_no_argument_list_file_or_environment() {
    let folder = Folder::new("megabyte");
    let long = "0123456789abcdef".repeat(1 << 16);
    let record = format!("{{\"name\":\"a\",\"x\":\"{long}\"}}");
    let digest =
        value(&folder, "[ (builtins.stringLength machine.x) (builtins.hashString \"sha256\" machine.x) ]", &record);
    let expected = folder.sh("tr -d '\\n' | sha256sum | cut -c1-64", &long).ok().stdout;
    assert_eq!(digest.unwrap(), json!([long.len(), expected.trim()]));
    let left = folder.sh("find . -type f -not -path './.cache/*' -printf '%P\\n'", "").ok().stdout;
    assert_eq!(left.trim(), "value.nix", "a file was left behind");
}

#[test]
fn what_one_deploy_writes_does_not_change_the_next() {
    let folder = Folder::new("passing");
    let record = r#"{"name":"a","ssh":{"host":"h"},"closure":{"drv":null,"toplevel":"/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x","paths":1,"bytes":1,"sentPaths":1,"sentBytes":1,"evaluated":true,"built":true,"seconds":1},"plan":[],"x":1}"#;
    assert_eq!(value(&folder, "builtins.attrNames machine", record).unwrap(), json!(["name", "ssh", "version", "x"]));
}

#[test]
fn what_an_earlier_step_would_add_is_known_after_apply() {
    let folder = Folder::new("later");
    cloud();
    let module = |text: &str| {
        format!(
            "{{ machine, ... }}: {{ imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];
              environment.etc.later.text = {text}; }}"
        )
    };
    let start = "nixos-ami -n --release 20.09 --region eu-central-1 --name later-1";
    let up = "keygen --plan | ec2-up --plan --deployment later";
    for (file, text, said) in [
        ("name.nix", "machine.name", None),
        ("key.nix", "machine.keyPair.publicKey", Some("machine.keyPair is known after apply: keygen makes it")),
        // Nor is it known that it is not there.
        ("id.nix", "machine.instance.id or \"none\"", Some("machine.instance is known after apply: ec2-up makes it")),
        ("host.nix", "builtins.toJSON machine.ssh", Some("machine.ssh is known after apply: ec2-up makes it")),
    ] {
        std::fs::write(folder.path().join(file), module(text)).unwrap();
        let ran = folder.sh(&format!("{start} | {up} | nix-push --plan {file} | nixos-switch --plan"), "").ok();
        let plan = ran.record()["plan"].as_array().unwrap().clone();
        let of = |tool: &str| plan.iter().filter(|entry| entry["tool"] == tool).cloned().collect::<Vec<_>>();
        assert!(["keygen", "ec2-up", "nixos-switch"].iter().all(|tool| !of(tool).is_empty()), "{plan:?}");
        let ours = of("nix-push");
        assert_eq!((&ours[0]["action"], &ours[1]["action"]), (&json!("build"), &json!("send")));
        match said {
            Some(said) => {
                for entry in ours {
                    assert_eq!(
                        (&entry["resource"], &entry["reason"]),
                        (&json!("closure/(known after apply)"), &json!(said))
                    );
                }
                assert!(ran.stderr.contains(&format!("would build and send a system: {said}")), "{}", ran.stderr);
                assert!(!ran.stderr.contains("nix: error:"), "{}", ran.stderr);
            }
            None => assert!(ours[0]["details"]["build"].is_array(), "{ours:?}"),
        }
    }
    // What nobody adds is missing.
    std::fs::write(folder.path().join("role.nix"), module("machine.role")).unwrap();
    let ran = folder.sh(&format!("{start} | {up} | nix-push --plan role.nix"), "");
    assert!(ran.record()["error"]["message"].as_str().unwrap().contains("attribute 'role' missing"), "{}", ran.stderr);
    // A machine that somebody else has made has no instance.
    let made = r#"{"name":"a","ssh":{"host":"127.0.0.1","port":1}}"#;
    let ran = folder.sh("nix-push --plan --expr '{ machine, ... }: { imports = [ machine.instance.x ]; }'", made);
    assert!(ran.record()["error"]["message"].as_str().unwrap().contains("'instance' missing"), "{}", ran.stderr);
}

#[test]
fn arguments_reach_each_source() {
    let folder = Folder::new("arguments");
    cloud();
    let nixpkgs = project().join("tests/nixpkgs").display().to_string();
    let module = |arguments: &str, text: &str| {
        format!(
            "{{ modulesPath{arguments}, ... }}: {{ imports = [ \"${{modulesPath}}/virtualisation/amazon-image.nix\" ];
              environment.etc.given.text = {text}; }}"
        )
    };
    let system = |more: &str| {
        format!("import {nixpkgs}/nixos/lib/eval-config.nix {{ inherit system; modules = [ ./module.nix ]; {more} }}")
    };
    for (file, text) in [
        ("plain.nix", module("", r#""it's ${"a"} \${b} 2""#)),
        ("module.nix", module(", word, number", "\"${word} ${toString number}\"")),
        ("hermetic.nix", format!("{{ system, word, number }}: {}", system("specialArgs = { inherit word number; };"))),
        ("extended.nix", format!("{{ system }}: {}", system(""))),
        ("flake.nix", flake()),
    ] {
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    folder.sh("nix --extra-experimental-features 'nix-command flakes' flake lock path:$PWD", "").ok();
    let resource = |flags: &str| {
        let ran = folder.sh(&format!("nix-push --plan {flags}"), r#"{"name":"a"}"#).ok();
        ran.record()["plan"][0]["resource"].as_str().unwrap().to_string()
    };
    let same = resource("plain.nix");
    for source in ["module.nix", "--hermetic hermetic.nix", "--hermetic extended.nix", "--flake .#web"] {
        for cache in ["", "--no-eval-cache"] {
            let given = format!("{cache} --argstr word \"it's a \\${{b}}\" --arg number '1 + 1' {source}");
            assert_eq!(resource(&given), same, "{given}");
        }
    }
    assert_ne!(resource("--argstr word x --arg number 2 module.nix"), same);
    // Nix takes a carriage return in its text for a newline.
    let escaped = resource(r#"--arg word '"a\r\nb\rc"' --arg number 2 module.nix"#);
    assert_eq!(resource(r"--argstr word $'a\r\nb\rc' --arg number 2 module.nix"), escaped);
}

#[test]
fn a_configuration_without_machine_is_the_derivation_that_nix_makes() {
    let folder = Folder::new("without");
    let nixpkgs = project().join("tests/nixpkgs");
    let module = "{ modulesPath, ... }: { imports = [ \"${modulesPath}/virtualisation/amazon-image.nix\" ];
                  system.stateVersion = \"20.09\"; }"
        .to_string();
    cloud();
    for (file, text) in [
        ("c.nix", module.clone()),
        ("h.nix", format!("import {}/nixos {{ configuration = ./c.nix; }}", nixpkgs.display())),
        ("flake/module.nix", module),
        ("flake/flake.nix", flake()),
    ] {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let nix = "nix --extra-experimental-features 'nix-command flakes'";
    folder.sh(&format!("{nix} flake lock ./flake"), "").ok();
    let toplevel = "config.system.build.toplevel";
    for (flags, plain) in [
        ("c.nix", "nix-instantiate '<nixpkgs/nixos>' -A system --arg configuration ./c.nix".into()),
        ("--hermetic h.nix", format!("nix-instantiate h.nix -A {toplevel}")),
        ("--flake flake#web", format!("{nix} eval --raw ./flake#nixosConfigurations.web.{toplevel}.drvPath")),
    ] {
        for cache in ["", "--no-eval-cache"] {
            let ran = folder.sh(&format!("nix-push --plan {cache} {flags}"), r#"{"name":"a","x":1}"#).ok();
            // The output's path follows from the derivation.
            let script = format!("drv=$({plain}) && nix-store --query --outputs $drv");
            let output = folder.sh(&script, "").ok().stdout.trim().replace("/nix/store/", "closure/");
            assert_eq!(ran.record()["plan"][0]["resource"], output, "{flags} {cache}");
        }
    }
}

#[test]
fn a_type_error_names_the_member_whatever_the_source_is() {
    let folder = Folder::new("type");
    cloud();
    let nixpkgs = project().join("tests/nixpkgs").display().to_string();
    let import = |set: &str| {
        format!("import {nixpkgs}/nixos/lib/eval-config.nix {{ inherit system; modules = [ ./module.nix ]; {set} }}")
    };
    let module = "{ machine, modulesPath, ... }: { imports = [ \"${modulesPath}/virtualisation/amazon-image.nix\" ];\n  networking.hostName = \"x${machine.role}\"; }";
    for (file, text) in [
        ("module.nix", module.into()),
        ("hermetic.nix", format!("{{ system, machine }}: {}", import("specialArgs = { inherit machine; };"))),
        ("extended.nix", format!("{{ system }}: {}", import(""))),
        ("flake.nix", flake()),
    ] {
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    folder.sh("nix --extra-experimental-features 'nix-command flakes' flake lock path:$PWD", "").ok();
    for source in [
        "--expr '{ imports = [ ./module.nix ]; }'",
        "--hermetic hermetic.nix",
        "--hermetic extended.nix",
        "--flake .#web",
    ] {
        for cache in ["", "--no-eval-cache"] {
            let ran = folder.sh(&format!("nix-push --plan {cache} {source}"), r#"{"name":"a","role":7}"#);
            let error = &ran.record()["error"];
            let hint = error["hint"].as_str().unwrap_or_default();
            assert!(hint.starts_with("it is about `machine.role`, a number"), "{source} {cache}: {error}");
            // Nix's place in the user's own file is shown, as Nix would.
            let place = ran.stderr.lines().any(|line| line.contains("nix:") && line.contains("module.nix:2:"));
            assert!(place && ran.stderr.contains("cannot coerce an integer"), "{source} {cache}: {}", ran.stderr);
        }
    }
}

#[test]
fn an_error_names_the_machine_the_fact_and_nix_s_place() {
    let folder = Folder::new("blame");
    cloud();
    let text = "{ machine, ... }: { imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];\n  environment.etc.r.text = \"${machine.role}\"; }\n";
    std::fs::write(folder.path().join("c.nix"), text).unwrap();
    let records = r#"{"name":"good","role":"db"} {"name":"bad","role":{"a":1}} {"name":"none"}"#;
    let ran = folder.sh("nix-push --plan c.nix", records);
    assert_eq!(ran.status, 1);
    let of = |name: &str| ran.records().into_iter().find(|record| record["name"] == name).unwrap();
    assert!(of("good")["error"].is_null(), "{}", ran.stderr);
    let bad = &of("bad")["error"];
    assert_eq!(bad["kind"], "evaluation");
    assert!(bad["hint"].as_str().unwrap().contains("`machine.role`, a set"), "{bad}");
    assert!(of("none")["error"]["hint"].as_str().unwrap().contains("has no `role`"), "{}", ran.stderr);
    assert!(ran.stderr.lines().any(|line| line.contains("bad: nix:") && line.contains("c.nix:2")), "{}", ran.stderr);
    // Lines of an expression are counted from its own first one.
    for (cache, wrong) in [("", "\"${machine.role}\""), ("--no-eval-cache", "\"${machine.role}\""), ("", "1 + )")] {
        let expression = text.replace("\"${machine.role}\"", wrong);
        let command = format!("nix-push --plan {cache} --argstr word 1 --expr \"$TEXT\"");
        let ran =
            folder.sh(&format!("TEXT=$(cat <<'EOF'\n{expression}EOF\n); {command}"), r#"{"name":"bad","role":{}}"#);
        assert!(ran.stderr.contains("«stdin»:2:"), "{cache} {wrong}: {}", ran.stderr);
    }
    // Nobody but the record says what `machine` is.
    for flag in ["--arg", "--argstr"] {
        let ran = folder.sh(&format!("nix-push --plan {flag} machine 1 c.nix"), r#"{"name":"good","role":"db"}"#);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
        assert!(ran.stderr.contains("is each machine's own record"), "{}", ran.stderr);
    }
    // What is wrong for every machine is about no machine's record.
    for wrong in
        ["networking.domain = machine.name; )", "environment.etc.r.text = \"${machine.role} ${pkgs.nowhere}\";"]
    {
        let text = text
            .replace("machine, ...", "machine, pkgs, ...")
            .replace("environment.etc.r.text = \"${machine.role}\";", wrong);
        std::fs::write(folder.path().join("c.nix"), text).unwrap();
        let ran = folder.sh("nix-push --plan c.nix", r#"{"name":"good","role":"db"}"#);
        assert_eq!(ran.record()["error"]["hint"], "-v shows Nix's whole trace", "{}", ran.stderr);
        // Its trace belongs to the error.
        let quiet = folder.sh("nix-push -q --plan c.nix", r#"{"name":"good","role":"db"}"#).stderr;
        let shown = |words: &str| quiet.contains(words);
        assert!(shown(": good: nix: error: ") && shown("c.nix:") && !shown("evaluating"), "{quiet}");
    }
}
