//! Host keys are known before the first login. On booted machines, whose consoles are put in place of the real ones.

use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};
use tests::{Folder, cloud, project};

/// Puts a text in place of a machine's console.
fn set_console(machine: &str, text: &str) {
    let mut command = Command::new(project().join("scripts/local-cloud"));
    command.args(["raw", "POST", "console", &format!("machine={machine}")]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn block(lines: &str) -> String {
    format!("-----BEGIN SSH HOST KEY FINGERPRINTS-----\n{lines}-----END SSH HOST KEY FINGERPRINTS-----\n")
}

#[test]
#[ignore = "long: scripts/test --all"]
fn the_key_that_the_console_names_is_pinned_and_another_is_refused() {
    let folder = Folder::new("host-keys");
    let cloud = cloud();
    let up = "ec2-up -q --deployment host-keys";
    let make = "nixos-ami -q -n --release 20.09 --region eu-west-1 --name host-keys | keygen -q > made.json";
    folder.sh(&format!("{make} && {up} --wait running < made.json"), "").ok();
    let shown = folder.sh(&format!("{up} --wait running < made.json"), "").ok().record();
    assert_eq!(shown["ssh"]["hostKeys"], Value::Array(vec![]));
    // The real block, once the machine has printed it.
    let console = (0..100)
        .find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(200));
            Some(cloud.run(&["console", "host-keys"])).filter(|text| text.contains("-----END SSH HOST KEY"))
        })
        .expect("no block on the console");

    for (text, kind) in [
        ("booting\n".to_string(), "timeout"),
        (block(""), "timeout"),
        (block(&format!("256 SHA256:{} root@x (ED25519)\n", "A".repeat(43))), "host-key"),
    ] {
        set_console("host-keys", &text);
        let failed =
            folder.sh(&format!("{up} --timeout {} < made.json", if kind == "timeout" { "10s" } else { "1m" }), "");
        let record = failed.record();
        assert_eq!((failed.status, record["error"]["kind"].as_str().unwrap()), (1, kind), "{record}");
        assert_eq!(record["instance"]["id"], shown["instance"]["id"], "{record}");
    }

    for (fault, kind, word) in
        [("deny", "denied", "allow the IAM action ec2:GetConsoleOutput"), ("no-console", "timeout", "--timeout")]
    {
        let action = if fault == "deny" { " GetConsoleOutput" } else { "" };
        // In this region: other machines of the cloud are read meanwhile.
        cloud.run(&format!("fault {fault}{action} --region eu-west-1").split(' ').collect::<Vec<_>>());
        let error = folder
            .sh(&format!("{up} --timeout {} < made.json", if kind == "timeout" { "10s" } else { "1m" }), "")
            .record()["error"]
            .clone();
        assert_eq!((&error["kind"], error["hint"].as_str().unwrap().contains(word)), (&kind.into(), true), "{error}");
        cloud.run(&["fault", "clear", "--region", "eu-west-1"]);
    }

    // It comes late and in pieces: while ec2-up waits, the block is cut in the middle of a fingerprint, then whole.
    let (start, end) = console.split_at(console.find("SHA256:").unwrap() + 20);
    set_console("host-keys", start);
    let mut waiting = folder.command(&format!("{up} --timeout 2m < made.json > late.json"));
    let mut waiting = waiting.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(waiting.try_wait().unwrap().is_none(), "half a block is none");
    set_console("host-keys", &format!("{start}{end}"));
    assert!(waiting.wait().unwrap().success());
    // From here on it is to be proven anew.
    let id = shown["instance"]["id"].as_str().unwrap();
    let python = "/var/lib/nixpipe-cloud/venv/bin/python -c";
    let call = |call: &str| {
        let code = format!("import boto3; boto3.client('ec2', region_name='eu-west-1').{call}");
        folder.sh(&format!("{python} \"{code}\""), "").ok()
    };
    call(&format!("delete_tags(Resources=['{id}'], Tags=[{{'Key': 'nixpipe:host-key'}}])"));

    // An older block, the real one, and the beginning of one more.
    let stale = block(&format!("256 SHA256:{} root@x (ED25519)\n", "A".repeat(43)));
    set_console("host-keys", &format!("{stale}{console}-----BEGIN SSH HOST KEY FINGERPRINTS-----\n256 SHA256:"));
    let found = folder.sh(&format!("{up} < made.json | tee up.json"), "").ok().record();
    let key = found["ssh"]["hostKeys"][0].as_str().unwrap();
    assert!(key.starts_with("ssh-ed25519 "), "{found}");
    let host = found["ssh"]["host"].as_str().unwrap();
    let known = format!("echo '{host} {key}' > known_hosts");
    let login = format!("ssh -o UserKnownHostsFile=known_hosts -o BatchMode=yes -i id_ed25519 root@{host} echo in");
    assert_eq!(folder.sh(&format!("{known} && {login}"), "").ok().stdout, "in\n");

    // Known by its tag from now on, also to ec2-ls.
    set_console("host-keys", "");
    let again = folder.sh(&format!("{up} < made.json"), "").ok().record();
    assert_eq!((&again["ssh"], &again["instance"]["created"]), (&found["ssh"], &Value::from(false)));
    let listed = folder.sh("ec2-ls -q --region eu-west-1 --deployment host-keys", "").ok().record();
    assert_eq!(listed["ssh"], found["ssh"]);

    // Another key than the known one ends it at once, however long it might wait.
    call(&format!(
        "create_tags(Resources=['{id}'], Tags=[{{'Key': 'nixpipe:host-key', 'Value': 'SHA256:{}'}}])",
        "A".repeat(43)
    ));
    let other = folder.sh(&format!("timeout 60 {up} --timeout 1h < made.json"), "");
    let error = other.record()["error"].clone();
    assert_eq!((other.status, &error["kind"]), (1, &Value::from("host-key")), "{error}");

    // On trust, only where the user says so.
    let other = format!("jq -c '.name = \"host-keys-2\"' made.json | {up}");
    folder.sh(&format!("{other} --wait running"), "").ok();
    set_console("host-keys-2", "");
    let trusted = folder.sh(&format!("{other} --host-key tofu"), "").ok().record();
    assert!(trusted["ssh"]["hostKeys"][0].as_str().unwrap().starts_with("ssh-ed25519 "));

    // Given to the machine: known before it boots, and the same after a run that was killed.
    let given = format!("jq -c '.name = \"host-keys-3\"' made.json | {up} --host-key user-data");
    folder.sh(&format!("{given} --wait none"), "").ok();
    set_console("host-keys-3", "");
    let pinned = folder.sh(&given, "").ok().record();
    let public = folder.sh("ssh-keygen -y -f host-keys-host-keys-3.host-key", "").ok().stdout;
    assert!(public.starts_with(pinned["ssh"]["hostKeys"][0].as_str().unwrap()), "{pinned} {public}");

    folder.sh("ec2-down -q -n --all --region eu-west-1 --deployment host-keys", "").ok();
    assert_eq!(folder.sh("ec2-ls -q --orphans --region eu-west-1 --deployment host-keys", "").ok().stdout, "");
}
