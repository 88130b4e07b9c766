//! The record and the stream, as every tool keeps them: asked of keygen, which needs no cloud.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use tests::{Folder, Ran};

fn keygen(folder: &Folder, input: impl AsRef<[u8]>) -> Ran {
    folder.sh("keygen", input)
}

#[test]
fn what_nobody_knows_passes_in_place_and_to_the_byte() {
    let folder = Folder::new("bytes");
    let members = r#""x":{"y":[1,2.50,null,12345678901234567890123]},"1E5":[1E5,-0,1e+007],"s":"\u00e9\/\n😀","deep":{"name":"n","name2":[{}]}"#;
    let ran = keygen(&folder, format!("{{\"name\":\"a\",{members},\"z\":true}}")).ok();
    let expected = format!("{{\"version\":1,\"name\":\"a\",{members},\"z\":true,\"keyPair\":{{");
    assert!(ran.stdout.starts_with(&expected), "{}", ran.stdout);
    // Members keep their order, and a section its place, when a second tool or run comes by.
    let again = keygen(&folder, &ran.stdout).ok();
    assert_eq!(again.stdout, ran.stdout);
}

#[test]
fn the_tutorials_image_needs_neither_network_nor_environment() {
    let folder = Folder::new("table");
    let script = "unshare -n env -i \"$(command -v nixos-ami)\" -n --release 20.09 --region eu-central-1";
    assert_eq!(folder.sh(script, "").ok().record()["ami"]["id"], "ami-0eed77c38432886d2");
    let x = r#""x":{"y":[1,2.50,null,12345678901234567890123]}"#;
    let pipe = "nixos-ami --release 20.09 --region eu-central-1 | keygen";
    let ran = folder.sh(pipe, format!("{{\"name\":\"a\",{x}}}")).ok();
    assert!(ran.stdout.starts_with(&format!("{{\"version\":1,\"name\":\"a\",{x},")), "{}", ran.stdout);
}

#[test]
fn records_come_in_any_white_space_and_leave_one_a_line() {
    let folder = Folder::new("space");
    let ran = keygen(&folder, "\u{FEFF}\n{\n  \"name\" : \"a\"\n}{\"name\":\"b\"}\r\n\t{\"name\":\"c\"}").ok();
    let names: Vec<_> = ran.records().iter().map(|record| record["name"].as_str().unwrap().to_string()).collect();
    assert_eq!(ran.stdout.lines().count(), 3);
    assert!(["a", "b", "c"].iter().all(|name| names.contains(&name.to_string())));
}

#[test]
fn a_member_of_ten_megabytes_passes() {
    let folder = Folder::new("big");
    let big = "0123456789".repeat(1_000_000);
    let ran = keygen(&folder, format!("{{\"name\":\"a\",\"big\":\"{big}\"}}")).ok();
    assert_eq!(ran.record()["big"], big.as_str());
}

#[test]
fn stdin_that_is_no_stream_of_records_is_status_2_and_tells_where() {
    let folder = Folder::new("malformed");
    for (input, place) in [
        (&b"{\"name\":\"a\"}\n{\"name\":"[..], "line 2, column 9"),
        (b"[1]", "line 1, column 1"),
        (b"nonsense", "line 1, column 1"),
        (b"{\"a\":1,\"a\":2}", "line 1, column 8"),
        (b"{\"a\":\"\xFF\"}", "line 1, column 7"),
        (b"{\"a\":\"\0\"}", "line 1, column 7"),
        (b"{}\n{}\0", "line 2, column 3"),
    ] {
        let ran = keygen(&folder, input);
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(ran.stderr.contains(place), "{}", ran.stderr);
    }
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    assert_eq!(keygen(&folder, deep).status, 2);
}

#[test]
fn machines_before_the_fault_are_finished() {
    let folder = Folder::new("before");
    let ran = keygen(&folder, "{\"name\":\"a\"} {\"name\":\"b\"} oops {\"name\":\"c\"}");
    assert_eq!((ran.status, ran.records().len()), (2, 2), "{ran:?}");
    assert!(ran.records().iter().all(|record| record["keyPair"].is_object()));
}

#[test]
fn an_empty_pipe_means_no_machine() {
    let folder = Folder::new("empty");
    for input in ["", "\n \n"] {
        let ran = keygen(&folder, input).ok();
        assert_eq!(ran.stdout, "");
        assert!(ran.stderr.contains("-n"), "{}", ran.stderr);
    }
    assert!(!folder.path().join("id_ed25519").exists());
    // A failed tool upstream makes no machine either.
    assert_eq!(folder.sh("false | keygen", "").stdout, "");
}

#[test]
fn a_terminal_null_or_closed_stdin_and_n_start_from_the_flags() {
    let folder = Folder::new("start");
    for script in [
        "keygen --name a </dev/null",
        "keygen --name a <&-",
        "keygen --name a -n",
        "keygen --name a -n </tmp",
        // script(1) gives its child a terminal.
        "script -qec 'keygen --name a > out' /dev/null </dev/null >/dev/null; cat out",
    ] {
        let record = folder.sh(script, "{\"name\":\"other\"}").ok().record();
        assert_eq!(record["name"], "a", "{script}");
        assert_eq!(record["version"], 1);
    }
    let file = folder.sh("echo '{\"name\":\"f\"}' > f; keygen < f", "").ok();
    assert_eq!(file.record()["name"], "f");
}

#[test]
fn a_socket_is_a_stream_of_records() {
    let folder = Folder::new("socket");
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut command = folder.command("keygen");
    let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::piped()).spawn().unwrap();
    drop(command);
    ours.write_all(b"{\"name\":\"s\"}").unwrap();
    drop(ours);
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("\"name\":\"s\""));
}

#[test]
fn tools_that_need_records_do_not_invent_one() {
    let folder = Folder::new("need");
    for script in ["nix-push x.nix </dev/null", "nixos-switch </dev/null", "nixos-switch -n", "ec2-down </dev/null"] {
        let ran = folder.sh(script, "");
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{script}: {}", ran.stderr);
    }
    for script in ["nix-push x.nix", "nixos-switch"] {
        assert_eq!(folder.sh(script, "").status, 0, "{script}: an empty pipe means no machine");
    }
}

#[test]
fn a_record_is_out_before_the_next_has_come() {
    let folder = Folder::new("soon");
    let mut child =
        folder.command("keygen").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(tests::unread()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for name in ["a", "b", "c"] {
        // No newline: the last brace is enough.
        write!(stdin, "{{\"name\":\"{name}\"}}").unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(line.contains(&format!("\"name\":\"{name}\"")));
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_failed_record_is_handed_on_untouched_and_the_status_is_1() {
    let folder = Folder::new("failed");
    let failed =
        r#"{"name":"bad","plan":[],"n":1.0,"error":{"tool":"ec2-up","kind":"limit","message":"m","hint":null}}"#;
    let ran = keygen(&folder, format!("{{\"name\":\"a\"}}{failed}{{\"name\":\"b\"}}"));
    assert_eq!(ran.status, 1);
    assert!(ran.stdout.lines().any(|line| line == failed), "{}", ran.stdout);
    assert_eq!(ran.records().iter().filter(|record| record["keyPair"].is_object()).count(), 2);
    // A null error is none.
    keygen(&folder, "{\"name\":\"c\",\"error\":null}").ok();
}

#[test]
fn retry_drops_our_own_errors_and_those_that_are_settled() {
    let folder = Folder::new("retry");
    let record = |tool: &str, more: &str| {
        format!(
            "{{\"name\":\"a\"{more},\"error\":{{\"tool\":\"{tool}\",\"kind\":\"internal\",\"message\":\"m\",\"hint\":null}}}}"
        )
    };
    let settled = r#","ami":{"id":"ami-0abc"}"#;
    let closure = |more: &str| {
        let path = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system";
        record("nix-push", &format!(",\"closure\":{{\"toplevel\":\"{path}\"{more}}}"))
    };
    for (input, status) in [
        (record("keygen", ""), 0),
        (record("nixos-ami", settled), 0),
        (record("nixos-ami", ""), 1),
        (record("nixos-switch", ""), 1),
        // What a tool writes beside its error is no sign that its work is there.
        (record("ec2-up", r#","instance":{"id":"i-1"}"#), 1),
        (record("ec2-up", r#","instance":{"id":"i-1"},"ssh":{"host":"h"}"#), 0),
        // What the user has written is none either.
        (record("ec2-up", r#","ssh":{"jump":"j"}"#), 1),
        (closure(""), 1),
        (closure(r#","sentPaths":null,"phases":{"root":0.1}"#), 1),
        (closure(r#","sentPaths":1,"phases":{"send":0.1}"#), 1),
        (closure(r#","sentPaths":1,"phases":{"root":0.1}"#), 0),
    ] {
        let ran = folder.sh("keygen --retry", &input);
        assert_eq!(ran.status, status, "{input}");
        assert_eq!(ran.record()["error"].is_null(), status == 0);
        assert_eq!(keygen(&folder, &input).status, 1, "without --retry nothing is tried again");
    }
}

#[test]
fn names_are_unique_host_names() {
    let folder = Folder::new("names");
    let ran = keygen(&folder, "{\"name\":\"a\"}{\"name\":\"a\"}{\"name\":\"-x\"}{\"name\":7}");
    assert_eq!(ran.status, 1);
    let kinds: Vec<_> = ran.records().iter().map(|record| record["error"]["kind"].clone()).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "input").count(), 3, "{kinds:?}");
    assert_eq!(ran.records().len(), 4);

    let named = folder.sh("keygen --name b", "{\"name\":\"a\"}{\"region\":\"r\"}").ok();
    let mut names: Vec<_> = named.records().iter().map(|record| record["name"].to_string()).collect();
    names.sort();
    assert_eq!(names, ["\"a\"", "\"b\""]);
    assert_eq!(folder.sh("keygen --name b", "{}{}").status, 2);
    assert_eq!(folder.sh("keygen -n --name 'a b'", "").status, 2);
    // A name that is none is not shown as it is.
    let forged = keygen(&folder, "{\"name\":\"a\\u001b[2J\\nkeygen: b: done\"}").stderr;
    assert!(!forged.contains('\u{1b}') && forged.lines().count() == 2, "{forged:?}");
}

#[test]
fn more_machines_at_a_time_than_the_system_has_threads_for_are_fewer() {
    let folder = Folder::new("threads");
    let ran = folder.sh("ulimit -v 2000000; keygen -q -j 65535", "{\"name\":\"a\"}{\"name\":\"b\"}").ok();
    assert_eq!(ran.records().len(), 2);
}

#[test]
fn a_newer_version_is_refused_and_both_are_named() {
    let folder = Folder::new("version");
    let ran = keygen(&folder, "{\"version\":2,\"name\":\"a\"}");
    assert_eq!(ran.status, 1);
    let error = ran.record()["error"].clone();
    assert_eq!(error["kind"], "input");
    assert!(
        error["message"].as_str().unwrap().contains("version 2")
            && error["message"].as_str().unwrap().contains("version 1")
    );
}

#[test]
fn a_plan_is_dropped_unless_it_is_asked_for() {
    let folder = Folder::new("plan");
    let input = r#"{"name":"a","plan":[{"tool":"nixos-ami","x":1.0}]}"#;
    assert!(keygen(&folder, input).ok().record()["plan"].is_null());
    let planned = folder.sh("rm -f id_ed25519; keygen --plan", input).ok();
    assert!(
        planned.stdout.contains(r#""plan":[{"tool":"nixos-ami","x":1.0},{"tool":"keygen","action":"create""#),
        "{}",
        planned.stdout
    );
    assert!(!folder.path().join("id_ed25519").exists());
    // Where nothing is to be done, the plan is an empty list or absent, and the section is there.
    let again = folder.sh("keygen -n >/dev/null; keygen --plan", input).ok().record();
    assert!(again["keyPair"].is_object());
}

#[test]
fn a_closed_stdout_starts_no_more_machines() {
    let folder = Folder::new("closed");
    // The reader leaves after the first record; thousands more are offered, one at a time.
    let many: String = (0..5000).map(|n| format!("{{\"name\":\"m{n}\"}}\n")).collect();
    let ran = folder
        .sh("(keygen --file '{name}.key' -j 2; echo $? > status) | head -n 1 > first; cat status; ls | wc -l", many);
    let mut lines = ran.stdout.lines();
    assert_eq!(lines.next(), Some("1"), "{}", ran.stderr);
    let files: usize = lines.next().unwrap().trim().parse().unwrap();
    assert!(files < 1000, "{files} machines were started");
    assert!(ran.stderr.contains("stdout"), "{}", ran.stderr);
}

#[test]
fn events_are_json_where_that_is_asked_for_and_quiet_is_quiet() {
    let folder = Folder::new("log");
    let ran = folder.sh("keygen -n --name a --log-format json", "").ok();
    let event: serde_json::Value = serde_json::from_str(ran.stderr.lines().next().unwrap()).unwrap();
    assert_eq!((&event["tool"], &event["machine"], &event["level"]), (&"keygen".into(), &"a".into(), &"info".into()));
    for flags in ["--log-format json --retri", "--log-format=json -j 0"] {
        let wrong = folder.sh(&format!("keygen {flags}"), "");
        let event: serde_json::Value = serde_json::from_str(wrong.stderr.trim_end()).unwrap();
        assert_eq!((wrong.status, &event["tool"], &event["level"]), (2, &"keygen".into(), &"error".into()), "{event}");
    }
    assert_eq!(folder.sh("keygen -n --name a -q", "").ok().stderr, "");
    let failed = folder.sh("keygen -n --name a -q --file no/such/folder", "");
    assert!(failed.stderr.starts_with("keygen: a: cannot write"), "{}", failed.stderr);
}

#[test]
fn every_tool_prints_its_version_and_completions() {
    let folder = Folder::new("version-flag");
    for tool in ["nixos-ami", "keygen", "ec2-up", "ec2-down", "ec2-ls", "nix-push", "nixos-switch"] {
        let version = folder.sh(&format!("{tool} --version"), "").ok();
        assert_eq!(version.stdout, format!("{tool} {}\n", env!("CARGO_PKG_VERSION")));
        for shell in ["bash", "zsh", "fish"] {
            let completions = folder.sh(&format!("{tool} --completions {shell}"), "").ok();
            assert!(completions.stdout.contains(tool), "{tool} {shell}");
        }
        assert_eq!(folder.sh(&format!("{tool} --no-such-flag"), "").status, 2);
    }
}
