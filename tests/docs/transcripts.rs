//! What the pages show is typed in, and answers what they say.

use crate::TOOLS;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tests::{Folder, cloud, project};

/// The machines that pages and examples speak of: one test at a time has them, and none are left.
pub struct Machines(pub Folder, #[allow(dead_code)] MutexGuard<'static, ()>);

static TURN: Mutex<()> = Mutex::new(());

impl Machines {
    pub fn new(test: &str) -> Machines {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        cloud();
        let machines = Machines(Folder::new(test), turn);
        machines.0.sh("ec2-down -n --all --quiet", "").ok();
        machines
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        self.0.sh("ec2-down -n --all --quiet", "");
    }
}

/// The literal blocks of an mdoc page, without its escapes.
fn literals(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(project().join(page)).unwrap();
    text.split("\n.Bd -literal")
        .skip(1)
        .map(|rest| {
            let block = rest.split("\n.Ed").next().unwrap().split_once('\n').unwrap().1;
            block.replace("\\&", "").replace("\\e", "\\").replace("\\(dq", "\"") + "\n"
        })
        .collect()
}

/// Commands, and what each is said to print: a command begins with `$ ` and goes on while lines end in a backslash.
fn session(block: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    let mut lines = block.lines();
    while let Some(line) = lines.next() {
        if let Some(command) = line.strip_prefix("$ ") {
            let mut command = command.to_string();
            while command.ends_with('\\') {
                command += &format!("\n{}", lines.next().unwrap());
            }
            commands.push((command, String::new()));
        } else if let Some((_, output)) = commands.last_mut() {
            *output += &format!("{line}\n");
        }
    }
    commands
}

#[test]
fn nixpipe_7_can_be_typed_as_it_stands() {
    let machines = Machines::new("nixpipe-7");
    let blocks = literals("docs/nixpipe.7");
    let file = |what: &str| blocks.iter().find(|block| block.contains(what) && !block.starts_with("$ ")).unwrap();
    machines.write("configuration.nix", file("config, lib, pkgs"));
    machines.write("role.nix", file("machine.role"));
    machines.write("machines.json", file("{\"name\":\"web-1\""));
    let mut typed = 0;
    for (command, output) in blocks.iter().flat_map(|block| session(block)) {
        let ran = machines.0.sh(&command, "").ok();
        assert!(output.is_empty() || ran.stdout == output, "$ {command}\n{}\nthe page says\n{output}", ran.stdout);
        typed += 1;
    }
    assert!(typed > 12, "{typed} commands");
    let records = machines.0.sh("cat all.json done.json", "").ok().records();
    assert_eq!(records.len(), 4);
    assert!(records.iter().all(|record| record["activation"]["outcome"].is_string()), "{records:?}");
    assert_eq!(machines.0.sh("ec2-ls", "").ok().stdout, "");
}

#[test]
fn recipes_without_a_prompt_can_be_typed_too() {
    let folder = Folder::new("recipes");
    cloud();
    let block = |page: &str, start: &str| literals(page).into_iter().find(|block| block.starts_with(start)).unwrap();
    // ssh-keygen takes no note of HOME.
    let recipe = block("docs/nixpipe.7", "ssh-keygen -F").replace("ssh-keygen ", "ssh-keygen -f known_hosts ");
    let login = "ssh-keygen -q -t ed25519 -N '' -f key && sed 's/^/web.example.org /' key.pub > known_hosts";
    let record = folder.sh(&format!("{login}\n{recipe}\ncat web.json"), "").ok().record();
    let key = folder.sh("cut -d' ' -f1,2 key.pub", "").ok().stdout;
    let ssh = serde_json::json!({ "host": "web.example.org", "hostKeys": [key.trim()] });
    assert_eq!(record, serde_json::json!({ "name": "web", "system": "x86_64-linux", "ssh": ssh }));

    let failed = block("machine-record/machine-record.5", "{\"version\":1,\"name\":\"web-2\"");
    std::fs::write(folder.path().join("machines.json"), format!("{{\"name\":\"web-1\"}}\n{failed}")).unwrap();
    let ran = folder.sh(&block("machine-record/machine-record.5", "jq 'select(.error)'"), "").ok();
    let records = serde_json::Deserializer::from_str(&ran.stdout).into_iter::<serde_json::Value>();
    let [reported, tried] = &records.map(Result::unwrap).collect::<Vec<_>>()[..] else { panic!("{}", ran.stdout) };
    assert_eq!((&reported["name"], &reported["error"]["message"]), (&"web-2".into(), &"no release".into()));
    assert_eq!((&tried["name"], &tried["error"]), (&"web-2".into(), &serde_json::Value::Null));
    assert_eq!(tried["ami"]["release"], "25.11");
}

/// The indented blocks below a heading of the README.
fn readme(heading: &str) -> String {
    let text = std::fs::read_to_string(project().join("README.md")).unwrap();
    let section = text.split(&format!("## {heading}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    section.lines().filter_map(|line| line.strip_prefix("    ")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_readmes_commands_can_be_typed_as_they_stand() {
    let machines = Machines::new("readme");
    copy("examples/tutorial", machines.0.path());
    let script = readme("The same on AWS");
    assert!(script.contains("nixos-ami -n") && script.contains("ec2-down"), "{script}");
    // The waves come before the machine goes: one machine is the first wave, and the second is empty.
    let waves = readme("The record");
    let waves: Vec<_> = waves.lines().filter(|line| line.starts_with("ec2-ls") || line.starts_with("head")).collect();
    assert_eq!(waves.len(), 2);
    // nixpipe(7) has waves, too: with --all both are typed.
    let waves = waves.join("\n").repeat(tests::sample(1, 0));
    let script = script.replace("ec2-ls | ec2-down", &format!("{waves}\nec2-ls | ec2-down"));
    // What is typed at a terminal reads no records from it.
    let ran = machines.0.sh(&format!("set -e\n{script}"), "").ok();
    // The tutorial's output comes first, records after it.
    assert!(ran.stdout.lines().next().is_some_and(|name| name != "null"), "{}", ran.stdout);
    assert_eq!(machines.0.sh("ec2-ls", "").ok().stdout, "");
}

#[test]
fn every_example_of_help_and_pages_runs() {
    let machines = Machines::new("help-examples");
    copy("examples/tutorial", machines.0.path());
    std::fs::create_dir(machines.0.path().join("examples")).unwrap();
    copy("examples", &machines.0.path().join("examples"));
    std::fs::copy(project().join("tests/images.json"), machines.0.path().join("images.json")).unwrap();
    machines.write(
        "flake.nix",
        &format!(
            "{{ inputs.nixpkgs.url = \"path:{}\";
            outputs = {{ nixpkgs, ... }}: {{ nixosConfigurations.web = nixpkgs.lib.nixosSystem {{
              system = \"x86_64-linux\";
              modules = [ \"${{nixpkgs}}/nixos/modules/virtualisation/amazon-image.nix\" ]; }}; }}; }}",
            project().join("tests/nixpkgs").display()
        ),
    );
    let begin = "nix flake lock --extra-experimental-features 'nix-command flakes'
                 git init -q; git add flake.nix flake.lock
                 nixos-ami -n --release 20.09 --region eu-central-1 --name web-1 | keygen | ec2-up > machines.json
                 nix-push configuration.nix < machines.json > pushed.json
                 ln -s $(jq -r .closure.toplevel pushed.json) result
                 mkdir -p bin secrets/web-1 .ssh
                 printf '#!/bin/sh\necho secret' > bin/pass; chmod +x bin/pass
                 echo s > secrets/web-1/password
                 nixos-switch < pushed.json > deployed.json
                 nix-push changed.nix < machines.json > pushed.json";
    machines.0.sh(&format!("set -e\n{begin}"), "").ok();
    let agent = "PATH=$PWD/bin:$PATH; eval $(ssh-agent) > /dev/null; trap 'kill $SSH_AGENT_PID' EXIT; ssh-add -q id_ed25519; [ ! -e id_rsa.pem ] || ssh-add -q id_rsa.pem";
    let mut typed = BTreeSet::new();
    // The one that takes machines away comes last.
    let tools = TOOLS
        .into_iter()
        .filter(|(tool, _)| *tool != "ec2-down")
        .chain(TOOLS.into_iter().filter(|(tool, _)| *tool == "ec2-down"));
    for (tool, page) in tools {
        let help = machines.0.sh(&format!("COLUMNS=100 {tool} --help"), "").ok().stdout;
        let examples = help.split("\nExamples:\n").nth(1).unwrap();
        let of_help = examples.lines().filter_map(|line| line.strip_prefix("    ")).map(String::from);
        for command in of_help.chain(examples_of(page)) {
            let script = format!("{agent}\n{{ {command}\n}} > /dev/null");
            if typed.insert(command) {
                machines.0.sh(&script, "").ok();
            }
        }
    }
    assert!(typed.len() > 30, "{} examples", typed.len());
}

/// The commands among the examples of a page.
fn examples_of(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(project().join(page)).unwrap();
    let examples = text.split("\n.Sh EXAMPLES\n").nth(1).unwrap().split("\n.Sh ").next().unwrap();
    let commands = examples.lines().filter_map(|line| line.strip_prefix(".Dl $ "));
    // There is no bastion here; tests/ssh.rs makes one.
    let commands = commands.filter(|command| !command.contains("bastion"));
    commands.map(|command| command.replace("\\(dq", "\"").replace("\\e", "\\")).collect()
}

/// Copies the files of a folder of the project, and of the folders in it.
pub fn copy(from: &str, to: &Path) {
    for entry in std::fs::read_dir(project().join(from)).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            std::fs::create_dir_all(to.join(&name)).unwrap();
            copy(path.to_str().unwrap(), &to.join(&name));
        } else {
            std::fs::copy(&path, to.join(&name)).unwrap();
        }
    }
}
