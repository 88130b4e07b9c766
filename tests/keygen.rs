//! Keys as other programs read them, and files as they must be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::{MetadataExt, symlink};
use tests::Folder;

#[test]
fn openssh_and_openssl_read_what_is_made() {
    let folder = Folder::new("interop");
    for (flags, file, check) in [
        ("--type ed25519", "id_ed25519", "true"),
        ("--type rsa", "id_rsa.pem", "openssl rsa -check -noout -in id_rsa.pem"),
        ("--type rsa --bits 4096 --file big.pem", "big.pem", "openssl rsa -check -noout -in big.pem"),
    ] {
        let pair = folder.sh(&format!("keygen -n {flags}"), "").ok().record()["keyPair"].clone();
        let public = pair["publicKey"].as_str().unwrap();
        folder.sh(check, "").ok();
        let theirs = folder.sh(&format!("ssh-keygen -y -f {file}"), "").ok().stdout;
        assert_eq!(theirs.split_whitespace().take(2).collect::<Vec<_>>().join(" "), public);
        // The name is that of the line with its newline, as the tutorial makes it.
        let sum = folder.sh(&format!("printf '%s\\n' '{public}' | sha256sum"), "").ok().stdout;
        assert_eq!(pair["name"], format!("generated-key-{}", &sum[..64]));
        let path = folder.path().join(file);
        assert_eq!(pair["privateKeyFile"], path.to_str().unwrap());
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    }
    assert!(
        std::fs::read_to_string(folder.path().join("id_rsa.pem"))
            .unwrap()
            .starts_with("-----BEGIN RSA PRIVATE KEY-----\n")
    );
}

#[test]
fn keys_of_others_are_used_as_they_are() {
    let folder = Folder::new("foreign");
    for make in [
        "ssh-keygen -q -t ed25519 -N '' -f k",
        "ssh-keygen -q -t rsa -b 2048 -N '' -f k",
        "ssh-keygen -q -t rsa -b 2048 -m PEM -N '' -f k",
        "ssh-keygen -q -t rsa -b 2048 -m PKCS8 -N '' -f k",
    ] {
        let theirs =
            folder.sh(&format!("rm -f k k.pub; {make}; cut -d' ' -f1,2 k.pub; sha256sum k >sum"), "").ok().stdout;
        let pair = folder.sh("keygen -n --file k", "").ok().record()["keyPair"].clone();
        assert_eq!(pair["publicKey"], theirs.trim(), "{make}");
        folder.sh("sha256sum -c --quiet sum", "").ok();
    }
}

#[test]
fn files_that_cannot_be_used_are_refused_and_left_alone() {
    let folder = Folder::new("refused");
    for (make, word) in [
        ("ssh-keygen -q -t ed25519 -N secret -f k", "encrypted"),
        ("ssh-keygen -q -t rsa -m PEM -N secret -f k", "encrypted"),
        ("ssh-keygen -q -t ecdsa -N '' -f k", "EC2 does not take"),
        ("ssh-keygen -q -t ed25519 -N '' -f k; chmod 640 k", "0640"),
        ("echo hello > k; chmod 600 k", "not a private key"),
        (": > k; chmod 600 k", "not a private key"),
        ("head -c 100000 /dev/urandom > k; chmod 600 k", "not a private key"),
        ("mkdir k", "not a file"),
        ("mkfifo -m 600 k", "not a file"),
        ("ln -s nowhere k", "link"),
    ] {
        folder.sh(&format!("rm -rf k k.pub; {make}; ls -l k > before"), "").ok();
        let ran = folder.sh("timeout 10 keygen -n --file k", "");
        let error = ran.record()["error"].clone();
        assert_eq!((ran.status, &error["kind"]), (1, &"input".into()), "{make}: {ran:?}");
        assert!(error["message"].as_str().unwrap().contains(word), "{make}: {error}");
        folder.sh("ls -l k | diff before -", "").ok();
    }
}

#[test]
fn a_link_to_a_good_key_is_followed() {
    let folder = Folder::new("link");
    folder.sh("keygen -n --file real", "").ok();
    symlink("real", folder.path().join("k")).unwrap();
    assert!(folder.sh("keygen -n --file k", "").ok().record()["keyPair"].is_object());
}

#[test]
fn ten_at_once_make_one_key_and_all_are_right() {
    let folder = Folder::new("race");
    for kind in ["ed25519", "rsa"] {
        let script = format!("for n in 1 2 3 4 5 6 7 8 9 10; do keygen -n --type {kind} --file {kind} & done; wait");
        let ran = folder.sh(&script, "").ok();
        let keys: Vec<_> = ran.records().iter().map(|record| record["keyPair"]["publicKey"].clone()).collect();
        assert_eq!(keys.len(), 10);
        assert!(keys.iter().all(|key| *key == keys[0]));
        let theirs = folder.sh(&format!("ssh-keygen -y -f {kind}"), "").ok().stdout;
        assert!(theirs.starts_with(keys[0].as_str().unwrap()));
    }
    assert_eq!(folder.sh("ls -A", "").stdout, "ed25519\nrsa\n", "nothing else is left behind");
}

#[test]
fn two_at_once_with_different_wishes_are_not_both_content() {
    let folder = Folder::new("wishes");
    for (one, other) in [("--type ed25519", "--type rsa"), ("--type rsa --bits 2048", "--type rsa --bits 3072")] {
        let both = format!(
            "rm -f k; keygen -q -n {one} --file k > one & keygen -q -n {other} --file k > other & wait; cat one other"
        );
        let records = folder.sh(&both, "").records();
        let kinds: Vec<_> = records.iter().filter_map(|record| record["error"]["kind"].as_str()).collect();
        assert_eq!(kinds, ["conflict"], "{both}: {records:?}");
    }
}

#[test]
fn what_ec2_ls_found_is_looked_for_where_keygen_puts_it() {
    let folder = Folder::new("found");
    folder.sh("keygen -q -n --type rsa > made", "").ok();
    folder.sh("jq -c '.keyPair.privateKeyFile = null' made > found", "").ok();
    let pair = folder.sh("keygen -q < found", "").ok().record()["keyPair"].clone();
    assert_eq!(pair, folder.sh("cat made", "").record()["keyPair"]);
    let error = folder.sh("rm id_rsa.pem; keygen -q < found", "").record()["error"].clone();
    assert_eq!(error["kind"], "not-found");
    let name = pair["name"].as_str().unwrap();
    let file = folder.path().join("id_rsa.pem");
    assert_eq!(error["message"], format!("the private key of {name} is not in {}", file.display()));
    assert!(error["hint"].as_str().unwrap().contains("--file"), "{error}");
    // What a person wrote may name the file alone, from the current folder.
    folder.sh("mv made id_none; keygen -q -n --file k > made", "").ok();
    let written = folder.sh("echo '{\"keyPair\":{\"privateKeyFile\":\"k\"}}' | keygen -q", "").ok().record();
    assert_eq!(written["keyPair"], folder.sh("cat made", "").record()["keyPair"]);
}

#[test]
fn a_full_disk_leaves_no_file() {
    let folder = Folder::new("full");
    // Needs root: a file system of one page, already full.
    let ran = folder.sh(
        "mkdir d && mount -t tmpfs -o size=4k,mode=700 none d && head -c 4096 /dev/zero > d/fill
         keygen -n --file d/k; status=$?; ls -A d > left; umount d; exit $status",
        "",
    );
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(ran.record()["error"]["message"].as_str().unwrap().contains("No space left"), "{ran:?}");
    assert_eq!(folder.sh("cat left", "").stdout, "fill\n");
}

#[test]
fn a_killed_keygen_leaves_a_whole_key_or_none() {
    let folder = Folder::new("killed");
    let script = "for n in $(seq 20); do
        rm -f k; keygen -n --type rsa --bits 3072 --file k > /dev/null 2>&1 & sleep 0.00$((n % 10))$((RANDOM % 10)); kill -9 $! 2>/dev/null; wait $! 2>/dev/null
        if [ -e k ]; then openssl rsa -check -noout -in k 2>/dev/null >&2 || exit 9; fi
        done; rm -f k; ls -A; keygen -n --type rsa --file k";
    let ran = folder.sh(script, "").ok();
    assert_eq!(ran.stdout.lines().count(), 1, "only the last record: {}", ran.stdout);
}

#[test]
fn each_machine_can_have_its_own_key() {
    let folder = Folder::new("each");
    let missing = folder.sh("keygen -n --name a --file 'keys/{name}'", "").record()["error"].clone();
    assert_eq!(missing["kind"], "input");
    assert!(missing["hint"].as_str().unwrap().starts_with("mkdir -p "), "{missing}");
    let ran = folder.sh("mkdir keys; keygen --file 'keys/{name}'", "{\"name\":\"a\"}{\"name\":\"b\"}").ok();
    let records = ran.records();
    assert_ne!(records[0]["keyPair"]["publicKey"], records[1]["keyPair"]["publicKey"]);
    assert_eq!(folder.sh("ls keys", "").stdout, "a\nb\n");
}

#[test]
fn a_records_own_key_is_kept() {
    let folder = Folder::new("own");
    let first = folder.sh("keygen -n --name a --file one", "").ok().stdout;
    // A flag speaks for machines that have none yet.
    assert_eq!(folder.sh("keygen --file other --type rsa", &first).status, 1, "one is an ed25519 key");
    assert_eq!(folder.sh("keygen --file other", &first).ok().stdout, first);
    // So is its name: EC2 knows the key pair of a machine that was there before us by that.
    let named = first.replacen("generated-key-", "deployer-", 1);
    assert_eq!(folder.sh("keygen", &named).ok().stdout, named);
    let gone = folder.sh("mv one two; keygen", &first);
    assert_eq!(gone.record()["error"]["kind"], "not-found");
    let swapped = folder.sh("keygen -n --file one > /dev/null; keygen", &first);
    assert_eq!(swapped.record()["error"]["kind"], "conflict");
}

#[test]
fn a_size_is_for_rsa_keys_and_is_checked() {
    let folder = Folder::new("bits");
    assert_eq!(folder.sh("keygen -n --bits 4096", "").status, 2, "an ed25519 key has one size");
    assert_eq!(folder.sh("keygen -n --type rsa --bits 1024", "").status, 2);
    assert_eq!(folder.sh("keygen -n --type rsa --bits 4097", "").status, 2);
    let odd = folder.sh("keygen -n --type rsa --bits 3072 --file k", "").ok();
    assert!(odd.stderr.contains("EC2 imports RSA keys of 2048 and 4096 bits, not of 3072"), "{}", odd.stderr);
    let other = folder.sh("keygen -n --type rsa --bits 4096 --file k", "");
    assert_eq!(other.record()["error"]["kind"], "conflict");
    folder.sh("keygen -n --type rsa --bits 3072 --file k && keygen -n --type rsa --file k", "").ok();
}

#[test]
fn of_the_agents_keys_the_records_own_is_taken() {
    let folder = Folder::new("agents");
    let script = "eval \"$(ssh-agent)\" > /dev/null; trap 'kill $SSH_AGENT_PID' EXIT
        for k in ecdsa ed25519 rsa; do ssh-keygen -q -t $k -N '' -f $k && ssh-add -q $k; done
        keygen -n --file rsa | jq -c '.keyPair.privateKeyFile = null' | keygen --from-agent; keygen -n --from-agent";
    let records = folder.sh(script, "").ok().records();
    assert_eq!(
        (&records[0]["keyPair"]["algorithm"], &records[1]["keyPair"]["algorithm"]),
        (&"rsa".into(), &"ed25519".into())
    );
}

#[test]
fn the_agents_key_is_taken_without_a_file() {
    let folder = Folder::new("agent");
    let script = "eval \"$(ssh-agent)\" > /dev/null; trap 'kill $SSH_AGENT_PID' EXIT
        ssh-keygen -q -t ed25519 -N '' -C work -f k && ssh-add -q k && rm k && keygen -n --from-agent; cut -d' ' -f1,2 k.pub >&2";
    let ran = folder.sh(script, "").ok();
    let pair = ran.record()["keyPair"].clone();
    assert!(pair["privateKeyFile"].is_null());
    assert!(ran.stderr.contains(pair["publicKey"].as_str().unwrap()), "{}", ran.stderr);
    let none = folder.sh("keygen -n --from-agent", "");
    assert_eq!(none.record()["error"]["kind"], "not-found");
}
