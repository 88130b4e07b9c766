//! The live line, and the lines above it.

use crate::screen::terminal;
use std::net::TcpListener;
use tests::Folder;

/// An EC2 that never answers: whoever asks it waits.
fn mute() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, format!("http://{address}"))
}

const ASK: &str = "nixos-ami -n --release 25.11 --region eu-central-1 --name web-1 --timeout 3s";

#[test]
fn the_live_line_fits_terminals_of_40_80_and_200_columns_and_the_error_stays() {
    let folder = Folder::new("widths");
    let (_server, address) = mute();
    std::thread::scope(|scope| {
        for width in [40, 80, 200] {
            let (folder, address) = (&folder, &address);
            scope.spawn(move || {
                let screen = terminal(folder, width, &[("AWS_ENDPOINT_URL", address)], &format!("{ASK} > out"), "");
                let live: Vec<_> = screen.seen.iter().filter(|row| row.contains("asking EC2, ")).collect();
                assert!(live.iter().any(|row| row.starts_with("nixos-ami: web-1: asking EC2, ")), "{:#?}", screen.seen);
                assert!(live.iter().all(|row| row.chars().count() < width), "{live:#?}");
                screen.is_never_scribbled_over();
                screen.is_left_whole();
                let text = screen.rows().concat();
                let (_, end) = text.split_once("in eu-central-1").unwrap();
                assert!(end.starts_with("nixos-ami: web-1: "), "the error stands last: {text}");
                assert_eq!(screen.status, 1, "{text}");
            });
        }
    });
}

#[test]
fn ctrl_c_leaves_the_screen_whole() {
    let folder = Folder::new("interrupted");
    let (_server, address) = mute();
    let script = format!("{} | keygen > out", ASK.replace(" --timeout 3s", ""));
    // Also where the live line takes the whole width, and `^C` comes behind it.
    for (width, interrupt) in [(80, "asking EC2, "), (30, "…")] {
        let screen = terminal(&folder, width, &[("AWS_ENDPOINT_URL", &address)], &script, interrupt);
        screen.is_never_scribbled_over();
        screen.is_left_whole();
        assert!(!screen.rows().concat().contains('…'), "{:#?}", screen.rows());
        assert_eq!(screen.status, 130, "{}", screen.raw);
    }
}

#[test]
fn two_tools_at_once_take_turns_on_the_last_line() {
    let folder = Folder::new("two");
    let (_server, address) = mute();
    let ask = ASK.replace("3s", "6s");
    let script = format!("{ask} > 1 & {} > 2; wait; wait", ask.replace("web-1", "web-2"));
    let screen = terminal(&folder, 80, &[("AWS_ENDPOINT_URL", &address)], &script, "");
    for machine in ["web-1", "web-2"] {
        let start = format!("nixos-ami: {machine}: asking EC2, ");
        assert!(screen.seen.iter().any(|row| row.starts_with(&start)), "{machine}: {:#?}", screen.seen);
    }
    screen.is_never_scribbled_over();
    screen.is_left_whole();
}

#[test]
fn a_hundred_machines_need_one_live_line() {
    let folder = Folder::new("hundred");
    let (_server, address) = mute();
    let machine = |number| {
        let release = if number % 2 == 0 { "20.09" } else { "25.11" };
        format!("{{\"name\":\"web-{number}\",\"release\":\"{release}\"}}\n")
    };
    std::fs::write(folder.path().join("in"), (0..100).map(machine).collect::<String>()).unwrap();
    let script = "nixos-ami --region eu-central-1 --timeout 4s < in > out";
    let screen = terminal(&folder, 80, &[("AWS_ENDPOINT_URL", &address)], script, "");
    let live = |row: &&String| row.contains("asking EC2, ") && row.ends_with("(50 of 100 machines done)");
    assert!(screen.seen.iter().any(|row| live(&row)), "{:#?}", screen.seen);
    screen.is_never_scribbled_over();
    screen.is_left_whole();
    let text = screen.rows().concat();
    let sum = text.split_once("50 of 100 machines failed: web-").unwrap_or_else(|| panic!("no summary: {text}"));
    assert!(sum.1.ends_with(" and 30 more"), "the summary stands last: {text}");
}

#[test]
fn a_record_on_the_terminal_stands_on_its_own_line() {
    let folder = Folder::new("records");
    let (_server, address) = mute();
    let script =
        format!("{ASK} > out & sleep 1; nixos-ami -n --release 20.09 --region eu-central-1 --name web-2; wait");
    let screen = terminal(&folder, 2000, &[("AWS_ENDPOINT_URL", &address)], &script, "");
    let record = screen.rows().into_iter().find(|row| row.contains("\"ami\"")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap_or_else(|_| panic!("{record}"));
    assert_eq!(record["name"], "web-2");
}

#[test]
fn what_prints_the_records_behind_a_tool_begins_its_own_line() {
    let folder = Folder::new("behind");
    let (_server, address) = mute();
    // The second machine's record passes, without a word, while the first one's line is drawn.
    std::fs::write(folder.path().join("works"), "{\"name\":\"web-1\",\"release\":\"25.11\"}\n").unwrap();
    let failed = r#"{"name":"web-2","error":{"tool":"nixos-ami","kind":"timeout","message":"too late"}}"#;
    std::fs::write(folder.path().join("passes"), format!("{failed}\n")).unwrap();
    let ask = "nixos-ami --region eu-central-1 --timeout 3s";
    let script = format!("(cat works; sleep 1; cat passes) | {ask} | jq -rM .name");
    let screen = terminal(&folder, 80, &[("AWS_ENDPOINT_URL", &address)], &script, "");
    assert!(screen.seen.iter().any(|row| row.starts_with("nixos-ami: web-1: asking EC2, 1 s")), "{:#?}", screen.seen);
    assert!(screen.rows().iter().any(|row| row == "web-2"), "{:#?}", screen.rows());
    screen.is_left_whole();
}

#[test]
fn who_draws_nothing_writes_over_the_line_of_another_tool() {
    let folder = Folder::new("others");
    let (_server, address) = mute();
    std::fs::write(folder.path().join("fails"), "{\"name\":\"db-1\"}\n").unwrap();
    let failed = r#"{"name":"db-2","error":{"tool":"nixos-ami","kind":"timeout","message":"too late"}}"#;
    std::fs::write(folder.path().join("passes"), format!("{failed}\n")).unwrap();
    for flag in ["-q", "--log-format json"] {
        // keygen has something to say, and then a record to pass on, while nixos-ami waits.
        let others = "(for file in fails passes; do sleep 1; cat $file; done)";
        let script = format!("{{ {others} & {ASK}; wait; }} | keygen {flag} --file no/such/folder");
        let screen = terminal(&folder, 2000, &[("AWS_ENDPOINT_URL", &address)], &script, "");
        assert!(screen.seen.iter().any(|row| row.starts_with("nixos-ami: web-1: asking EC2, ")), "{:#?}", screen.seen);
        let rows = screen.rows();
        let error = |row: &String| row.contains("db-1") && row.contains("cannot write");
        assert!(rows.iter().any(error), "{rows:#?}");
        let record = |row: &String| serde_json::from_str(row).is_ok_and(|row: serde_json::Value| row["name"] == "db-2");
        assert!(rows.iter().any(record), "{rows:#?}");
        screen.is_left_whole();
    }
}

#[test]
fn a_dumb_terminal_gets_plain_lines_and_no_colour_is_ever_used() {
    let folder = Folder::new("dumb");
    let (_server, address) = mute();
    for environment in [[("TERM", "dumb"), ("LANG", "C")], [("TERM", "xterm"), ("NO_COLOR", "1")]] {
        let mut variables = environment.to_vec();
        variables.push(("AWS_ENDPOINT_URL", &address));
        let screen = terminal(&folder, 80, &variables, &format!("{ASK} > out"), "");
        let dumb = environment[0].1 == "dumb";
        assert_eq!(screen.raw.contains('\x1b'), !dumb, "{:?}", screen.raw);
        assert_eq!(screen.raw.replace("\r\n", "").contains('\r'), !dumb, "{:?}", screen.raw);
        // `draw` has refused any sequence but "erase": no colour either way.
        screen.is_left_whole();
    }
}

#[test]
fn the_json_log_is_one_object_a_line_with_numbers_as_numbers() {
    let folder = Folder::new("json-log");
    let (_server, address) = mute();
    let said = |command: &str| -> Vec<serde_json::Value> {
        let script = format!("{command} --log-format json > out");
        let screen = terminal(&folder, 2000, &[("AWS_ENDPOINT_URL", &address)], &script, "");
        let rows = screen.rows().into_iter().filter(|row| !row.is_empty());
        rows.map(|row| serde_json::from_str(&row).unwrap_or_else(|_| panic!("no JSON: {row}"))).collect()
    };
    let lines = said(ASK);
    for line in &lines {
        for member in ["time", "tool", "machine", "level", "event"] {
            assert!(line[member].is_string(), "{member}: {line}");
        }
        assert_eq!((&line["tool"], &line["machine"]), (&"nixos-ami".into(), &"web-1".into()));
    }
    assert!(lines.iter().any(|line| line["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0)), "{lines:#?}");
    let error = lines.iter().find(|line| line["level"] == "error").unwrap();
    assert!(error["kind"].is_string() && error["hint"].is_string(), "{error}");
    // A region is no machine.
    let lines = said("ec2-ls --region eu-central-1 --timeout 2s");
    assert!(lines.iter().all(|line| line["machine"].is_null()), "{lines:#?}");
    let took = |line: &serde_json::Value| line["event"].as_str().unwrap().starts_with("listing eu-central-1 took ");
    assert!(lines.iter().any(took), "{lines:#?}");
}

#[test]
fn who_waits_says_so_on_a_terminal_and_in_a_file() {
    let folder = Folder::new("waits");
    let (server, address) = mute();
    let port = server.local_addr().unwrap().port();
    let ssh = format!(r#""ssh":{{"host":"127.0.0.1","port":{port},"hostKeys":["SHA256:x"]}}"#);
    std::fs::write(folder.path().join("in"), format!(r#"{{"name":"web-1","region":"eu-central-1",{ssh}}}"#)).unwrap();
    // A Nix that locks without end.
    folder.sh("mkdir bin; printf '#!/bin/sh\\nexec sleep 600\\n' > bin/nix; chmod +x bin/nix", "").ok();
    std::thread::scope(|scope| {
        let commands = [
            (
                "nixos-ami -n --name web-1 --release 20.09 --verify --region eu-central-1",
                "nixos-ami: web-1: asking EC2, ",
            ),
            ("ec2-up < in", "ec2-up: web-1: being found, "),
            ("ec2-down < in", "ec2-down: web-1: being found, "),
            ("ec2-down -n --all --region eu-central-1", "ec2-down: listing eu-central-1, "),
            ("ec2-ls --region eu-central-1", "ec2-ls: listing eu-central-1, "),
            ("AWS_REGION=sa-east-1 ec2-ls --all-regions", "ec2-ls: listing the regions that sa-east-1 knows, "),
            ("nixos-switch --status < in", "nixos-switch: web-1: looking, "),
            (
                r#"NIX_CONFIG="build-users-group =" PATH=$PWD/bin:$PATH nix-push --plan --flake path:$PWD#a < in"#,
                "nix-push: web-1: locking the flake, ",
            ),
        ];
        for (number, (command, words)) in commands.into_iter().enumerate() {
            let (folder, address) = (&folder, &address);
            scope.spawn(move || {
                // Each ends by Ctrl-C, once the words are there: nobody answers.
                let screen = terminal(folder, 80, &[("AWS_ENDPOINT_URL", address)], command, words);
                screen.is_left_whole();
                let file = format!("said-{number}");
                let plain = format!("tail -f {file} & {command} 2> {file} > {file}.out");
                let script = format!("touch {file}; {plain}");
                let screen = terminal(folder, 80, &[("AWS_ENDPOINT_URL", address)], &script, words);
                let said = std::fs::read_to_string(folder.path().join(&file)).unwrap();
                assert!(said.starts_with(words) && !said.contains('\x1b'), "{said:?} {:?}", screen.raw);
            });
        }
    });
}

#[test]
fn a_copy_shows_bytes_rate_and_what_is_left() {
    let folder = Folder::new("bytes");
    let cloud = tests::cloud();
    let down = "ec2-down -q -n --deployment terminal --all --region eu-central-1";
    folder.sh(down, "").ok();
    let machine = "nixos-ami -q -n --release 20.09 --region eu-central-1 --name far | keygen -q | ec2-up -q --deployment terminal";
    folder.sh(&format!("{machine} > in"), "").ok();
    let configuration = "{ pkgs, ... }: { imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];
        environment.etc.random.source = pkgs.runCommand \"random\" {} \"head -c 20000000 /dev/urandom > $out\"; }";
    std::fs::write(folder.path().join("configuration.nix"), configuration).unwrap();
    // 2 MiB are under way at a time.
    cloud.run(&["delay", "500", "far"]);
    let screen = terminal(&folder, 120, &[], "nix-push configuration.nix < in > out", "");
    folder.sh(down, "").ok();
    assert_eq!(screen.status, 0, "{}", screen.raw);
    screen.is_left_whole();
    let is = |text: &str, ends: &str| text.strip_suffix(ends).is_some_and(|number| number.parse::<f64>().is_ok());
    let shown = screen.seen.iter().filter(|row| {
        let Some(row) = row.strip_prefix("nix-push: far: sending ") else { return false };
        let [bytes, rate, left] = row.split(", ").collect::<Vec<_>>()[..] else { return false };
        bytes.split_once(" of ").is_some_and(|(done, all)| done.ends_with("iB") && is(all, " MiB"))
            && is(rate, " MiB/s")
            && is(left, " s left")
    });
    assert!(shown.count() > 2, "{:#?}", screen.seen);
}

#[test]
fn a_terminal_without_a_width_has_80_columns() {
    let folder = Folder::new("no-width");
    let (_server, address) = mute();
    let screen = terminal(&folder, 0, &[("AWS_ENDPOINT_URL", &address)], ASK, "asking EC2, ");
    assert!(screen.raw.contains("nixos-ami: web-1: asking EC2, "), "{:?}", screen.raw);
}
