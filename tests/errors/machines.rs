//! What one machine of the local cloud can be made to hold against its tools.

use crate::says;
use tests::{Folder, cloud, project, sample};

/// Takes the machine away, however the test ends.
struct Down<'a>(&'a Folder);

const DOWN: &str = "ec2-down -q -n --deployment errors --all --region eu-central-1";

impl Drop for Down<'_> {
    fn drop(&mut self) {
        self.0.sh(DOWN, "");
    }
}

#[test]
fn a_machine_that_is_odd_in_many_ways_says_in_which() {
    cloud();
    let folder = Folder::new("odd");
    folder.sh(DOWN, "").ok();
    let _down = Down(&folder);
    let say = |command: &str, status: i32, words: &[&str]| says(&folder, command, "", status, words);
    let configuration = |file: &str, more: &str| {
        let text = format!(
            "{{ pkgs, ... }}: {{ imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ]; {more} }}"
        );
        std::fs::write(folder.path().join(file), text).unwrap();
    };
    configuration("one.nix", "environment.etc.one.text = \"one\";");

    // Its host key: taken on trust, and then forgotten by all.
    folder.sh("nixos-ami -n --release 20.09 --region eu-central-1 --name odd | keygen > key.json", "").ok();
    let up = "ec2-up --deployment errors --host-key tofu < key.json > up.json";
    say(up, 0, &["warning: its host key is taken on trust (--host-key tofu)"]);
    let untag = "import boto3; boto3.client('ec2', region_name='eu-central-1').delete_tags(
        Resources=['$(jq -r .instance.id up.json)'], Tags=[{'Key': 'nixpipe:host-key'}])";
    folder.sh(&format!("/var/lib/nixpipe-cloud/venv/bin/python -c \"{untag}\""), "").ok();
    say(
        "ec2-up --deployment errors --host-key user-data < key.json",
        1,
        &["no host key of the machine is known, and its file is missing", "hint: --host-key user-data gives a key to"],
    );

    // What was built, and where it is kept.
    say(
        "nix-push one.nix --keep-result /proc/odd < up.json",
        1,
        &["cannot make /proc/odd", "hint: --keep-result names"],
    );
    folder.sh("mkdir -p kept/odd", "").ok();
    say(
        "nix-push one.nix --keep-result kept < up.json",
        1,
        &["cannot keep the result as ", "hint: --keep-result names"],
    );
    configuration("two.nix", "environment.etc.two.text = \"two $(date)\";");
    folder
        .sh(
            "mkdir bin; real=$(command -v nix-store); printf '%s\n' '#!/bin/sh' 'case \"$1\" in --realise) echo /nix/store/other; exit;; esac' \
             \"exec $real \\\"\\$@\\\"\" > bin/nix-store; chmod 755 bin/nix-store",
            "",
        )
        .ok();
    say(
        "PATH=$PWD/bin:$PATH nix-push two.nix < up.json",
        1,
        &["Nix built /nix/store/other, not /nix/store/", "hint: "],
    );
    say(
        "nix-push one.nix --via file://$PWD/cache --log-format json < up.json > pushed.json",
        0,
        &["writing to the cache took", "\"seconds\":"],
    );

    // Nobody can log in any more as the tools want it.
    if sample(1, 0) == 1 {
        folder.sh("nixos-switch < pushed.json > switched.json", "").ok();
        configuration("three.nix", "environment.etc.three.text = \"three\";");
        folder.sh("nix-push three.nix < switched.json > pushed.json", "").ok();
        let cloud = project().join("scripts/local-cloud");
        let cut = format!(
            "nixos-switch --activation-timeout 20s --confirm-timeout 2s --return-timeout 2s --reboot-timeout 2s \
               --connect-timeout 20s --health 'sleep 20' < pushed.json > out 2> said &
             for n in {{1..600}}; do grep -q 'not yet the one that boots' said && break; sleep 0.1; done
             {0} cut odd; wait $!; {0} heal odd; cat said >&2
             for n in {{1..100}}; do nixos-switch -q --status < pushed.json > status && break; sleep 1; done",
            cloud.display()
        );
        say(&cut, 0, &["what became of the machine is not known"]);
    }
    let shell = "jq -r '.ssh.host + \" \" + .ssh.hostKeys[0]' up.json > known_hosts
         ssh -F none -i id_ed25519 -o StrictHostKeyChecking=yes -o UserKnownHostsFile=known_hosts root@$(jq -r .ssh.host up.json) \
         'echo \"#!/bin/sh\" > /root/mute; chmod 755 /root/mute; sed -i \"s,^\\(root:.*:\\)[^:]*$,\\1/root/mute,\" /etc/passwd'";
    folder.sh(&format!("{shell} < /dev/null"), "").ok();
    let words = ["the machine's shell ended without an answer: it said nothing", "hint: run nixos-switch again"];
    say("nixos-switch < pushed.json", 1, &words);
    say("nix-push one.nix < up.json", 1, &["it ended without a word", "hint: is Nix there"]);
}
