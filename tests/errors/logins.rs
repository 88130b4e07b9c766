//! Logins that fail on this side, or find nobody.

use crate::says;
use tests::Folder;

const KEY: &str = "SHA256:HnASBmKSSgnTGtyrojxTIRh1amvuoWaTDCy0o2PKkM8";

fn record(more: &str) -> String {
    format!(r#"{{"name":"a","ssh":{{"host":"127.0.0.1","port":1,"user":"root","hostKeys":["{KEY}"]{more}}}}}"#)
}

#[test]
fn a_login_that_cannot_be_says_why() {
    let folder = Folder::new("logins");
    folder
        .sh(
            "printf '#!/bin/sh\n[ \"$1\" = -G ] && exec ssh \"$@\"\nexec sleep 600\n' > slow
             printf '#!/bin/sh\n[ \"$1\" = -G ] && exec ssh \"$@\"\nexit 1\n' > mute
             printf '#!/bin/sh\nexec ssh -F bad \"$@\"\n' > wrong; echo 'Nonsense yes' > bad
             printf '#!/bin/sh\nexec ssh -F odd \"$@\"\n' > odd-jump; printf 'ProxyJump a%%%%b\n' > odd
             chmod 755 slow mute wrong odd-jump; mkdir empty; touch not-a-program",
            "",
        )
        .ok();
    let (here, running) =
        (record(""), "hint: is the machine running, and does its security group let this address in?");
    let refused = "cannot connect to 127.0.0.1 port 1: Connection refused";
    for (flags, input, words) in [
        ("", here.clone(), &[refused, running][..]),
        ("--ssh ssh", here.clone(), &["cannot log in to 127.0.0.1 as root: ", "Connection refused", running]),
        ("", here.replace("127.0.0.1", "no-such-host.invalid"), &["cannot look up no-such-host.invalid"]),
        (
            "",
            here.replace(&format!("\"{KEY}\""), ""),
            &["no host key of 127.0.0.1 is known", "hint: write the machine's"],
        ),
        ("", here.replace("\"root\"", "\"-x\""), &["cannot use the record's `ssh.user`: \"-x\""]),
        (
            "--ssh ./nowhere",
            here.clone(),
            &["cannot run ./nowhere: No such file", "hint: --ssh names OpenSSH's client"],
        ),
        ("--ssh ./not-a-program", here.clone(), &["cannot run ./not-a-program: Permission denied"]),
        ("--ssh ./mute", here.clone(), &["cannot log in to 127.0.0.1 as root: ssh ended without a word"]),
        ("--ssh ./wrong", here.clone(), &["cannot read ssh_config for 127.0.0.1", "hint: look at your ssh_config"]),
        (
            "--ssh ./slow --connect-timeout 1s",
            here.clone(),
            &["no login to 127.0.0.1 within 3 s", "hint: what does `ssh -v` say?"],
        ),
        ("--elevate sudo --elevate-password-fd 9", here.clone(), &["cannot read a password from descriptor 9: "]),
        ("--elevate sudo --elevate-password-fd 3 3< /dev/null", here.clone(), &["descriptor 3: it is empty"]),
        (
            "--elevate sudo --elevate-password-fd 3 3< <(head -c 300 /dev/zero)",
            here.clone(),
            &["it is longer than 255 bytes"],
        ),
    ] {
        let status = if flags.contains("password") { 2 } else { 1 };
        says(&folder, &format!("nixos-switch --status {flags}"), &input, status, words);
    }
    let key = r#"{"keyPair":{"name":"k","publicKey":"","privateKeyFile":"/nowhere/key","algorithm":"ed25519"},"#;
    let with_key = here.replacen('{', key, 1);
    says(&folder, "nixos-switch --status --ssh ssh", &with_key, 1, &["cannot read the private key /nowhere/key"]);

    // Without OpenSSH there are no jump hosts, and its configuration is not asked.
    let alone = "tool=$(command -v nixos-switch); PATH=$PWD/empty $tool --status";
    says(&folder, alone, &here, 1, &[refused]);
    let words =
        ["cannot run ssh for the jump host bastion", "hint: jump hosts are reached by OpenSSH's client: install it"];
    says(&folder, alone, &record(r#","jump":"bastion""#), 1, &words);
    let odd = "mkdir bin; ln -s ../odd-jump bin/ssh.sh; printf '#!/bin/sh\nexec /usr/bin/ssh -F odd \"$@\"\n' > bin/ssh; chmod 755 bin/ssh
               PATH=$PWD/bin:$PATH nixos-switch --status";
    says(
        &folder,
        odd,
        &here,
        1,
        &["cannot use the ProxyJump of ssh_config for 127.0.0.1: \"a%%b\"", "hint: it is [user@]host"],
    );
}

#[test]
fn machines_that_are_not_begun_say_how_many_failed() {
    let folder = Folder::new("not-begun");
    let machine = |name| record("").replace("\"a\"", &format!("\"{name}\"")) + "\n";
    let input = ["a", "b", "c"].map(machine).concat();
    says(
        &folder,
        "nixos-switch -j 1 --max-failures 1 --status",
        &input,
        1,
        &["not begun: 1 machine has failed before"],
    );
    let words = ["not begun: 2 machines have failed before", "hint: see what failed"];
    says(&folder, "nixos-switch -j 1 --max-failures 2 --status", &input, 1, &words);
}
