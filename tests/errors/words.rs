//! Input that is no stream of records, and flags that do not go together.

use crate::says;
use tests::Folder;

#[test]
fn malformed_input_is_told_by_line_column_and_what_is_wrong() {
    let folder = Folder::new("json");
    for (input, words) in [
        ("{1", "expected a name in quotes"),
        (r#"{"\ud800":1}"#, "half of a surrogate pair"),
        (r#"{"a" 1}"#, "expected `:` after a name"),
        (r#"{"a":1 "b":2}"#, "expected `,` or `}`"),
        (r#"{"a":[1 2]}"#, "expected `,` or `]`"),
        (r#"{"a":"x"#, "the input ends inside a string"),
        (r#"{"a":"\ud800x"}"#, "half of a surrogate pair"),
        (r#"{"a":"\udc00"}"#, "half of a surrogate pair"),
        (r#"{"a":"\x"}"#, "unknown escape in a string"),
        (r#"{"a":"\u12G4"}"#, "expected four hex digits"),
    ] {
        says(&folder, "keygen", input, 2, &["keygen: stdin: line 1, column ", words]);
    }
    says(&folder, "keygen < /proc/$$/mem; exit $?", "", 2, &["cannot read: Input/output error"]);
    says(&folder, "keygen < .", "", 2, &["stdin is a directory, not a stream of records"]);
    says(&folder, "keygen --plan", r#"{"plan":1}"#, 1, &["the record's `plan` is not a list"]);
    let closure = r#"{"ssh":{"host":"127.0.0.1","hostKeys":["x"]},"closure":{"toplevel":"/etc"}}"#;
    let ami = r#"{"ami":"struct x"}"#;
    let words = ["cannot use the record's `ami`: invalid type: string \"struct x\", expected an object\n"];
    says(&folder, "ec2-up", ami, 1, &words);
    says(&folder, "nixos-switch", closure, 1, &["cannot use the record's `closure`: not a store path: \"/etc\""]);
    let port = r#"{"ssh":{"host":"127.0.0.1","port":0,"hostKeys":["x"]}}"#;
    let words = ["cannot use the record's `ssh.port`: 0", "hint: a port is a number from 1 to 65535"];
    says(&folder, "nixos-switch", port, 1, &words);
    let paths = r#"{"ssh":{"host":"127.0.0.1","hostKeys":["x"]},"closure":{"paths":-1}}"#;
    let words = ["cannot use the record's `closure`: ", "integer `-1`, expected a whole number, 0 or more"];
    says(&folder, "nixos-switch", paths, 1, &words);
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    let folder = Folder::new("flags");
    folder.sh("echo '{' > bad.json; echo '{ }' > configuration.nix", "").ok();
    let clean = "env -u AWS_REGION -u AWS_DEFAULT_REGION AWS_EC2_METADATA_DISABLED=true";
    for (command, status, words) in [
        ("nixos-ami -n --source catalogue", 2, &["--source catalogue and --catalogue FILE go together"][..]),
        ("nixos-ami -n --source table --owner 1", 2, &["--owner is for --source ec2 and catalogue"]),
        ("nixos-ami -n --release 20.09 --source table", 1, &["no region", "hint: name one with --region"]),
        ("nixos-ami -n --release 20.09 --region EU", 1, &["not the name of a region: \"EU\"", "as in eu-central-1"]),
        ("nixos-ami -n --region eu-west-1", 1, &["no release", "hint: name one with --release, such as 25.11"]),
        (
            "nixos-ami -n --region eu-west-1 --release latest --source table",
            1,
            &["the table ends with 23.11", "hint: say --source ec2 or --catalogue FILE"],
        ),
        (
            "nixos-ami -n --region eu-west-1 --release 25.11 --catalogue bad.json",
            1,
            &["cannot use the catalogue bad.json"],
        ),
        ("ec2-down -n --name a --all", 2, &["say either --name or --all"]),
        ("ec2-down -n", 2, &["no machine is named: by --name, --all, or records on stdin"]),
        ("ec2-down < /dev/null", 2, &["no machine is named: by --name, --all, or records on stdin"]),
        ("ec2-down -n --name a", 1, &["no region", "hint: name one with --region, or set AWS_REGION"]),
        ("ec2-down -n --name a --region EU", 1, &["not the name of a region", "as in eu-central-1"]),
        ("ec2-ls --deployment a/b", 2, &["a deployment's name has up to 64 letters"]),
        ("keygen -n --file ''", 1, &["--file is empty"]),
        ("nix-push --eval-memory 5X configuration.nix", 2, &["a size is a number and a unit, such as 512M or 4G"]),
        ("nixos-switch --confirm-via 22", 2, &["a host and a port, such as 192.0.2.1:2222"]),
        ("nixos-switch --confirm-via a:b", 2, &["not a port: b"]),
        ("nixos-switch --confirm-via :22", 2, &["no host before the port"]),
        ("nixos-switch --rollback --to a/b", 2, &["neither the number of a generation nor a store path"]),
        ("nixos-switch --specialisation a/b", 2, &["not the name of a specialisation"]),
        (
            "nixos-switch --secrets . --secrets-dir keys",
            2,
            &["an absolute path of plain characters, such as /var/keys"],
        ),
    ] {
        says(&folder, &format!("{clean} {command}"), "", status, words);
    }
    let nameless = r#"{"region":"eu-west-1"}"#;
    says(&folder, "ec2-down", nameless, 1, &["the record has no `name`"]);
    says(&folder, "ec2-down --all --region eu-west-1", r#"{"name":"a"}"#, 1, &["--all takes no records", "say -n"]);
}

#[test]
fn an_image_that_will_go_is_warned_of() {
    let folder = Folder::new("deprecated");
    for (when, words) in
        [("2020-01-01", "is deprecated since 2020-01-01"), ("$(date -d '+10 days' +%F)", "will be deprecated at 20")]
    {
        let catalogue = format!(
            "jq -n --arg when {when}T00:00:00.000Z '{{\"eu-west-1\": {{Images: [{{ImageId: \"ami-0123456789abcdef0\",
               Name: \"nixos/25.11.1-x86_64-linux\", OwnerId: \"427812963091\", Architecture: \"x86_64\",
               CreationDate: \"2025-12-01T00:00:00.000Z\", DeprecationTime: $when, State: \"available\",
               RootDeviceType: \"ebs\", VirtualizationType: \"hvm\", Public: true}}]}}}}' > images.json"
        );
        let ask = "nixos-ami -n --region eu-west-1 --release 25.11 --catalogue images.json";
        says(&folder, &format!("{catalogue}; {ask}"), "", 0, &["warning: ami-0123456789abcdef0", words, "deleted"]);
    }
}

#[test]
fn a_hint_that_is_the_same_for_many_machines_is_said_once() {
    let folder = Folder::new("hints");
    let records = r#"{"name":"a"}{"name":"b"}{"name":"c","region":"EU"}"#;
    let ask = "env -u AWS_REGION -u AWS_DEFAULT_REGION nixos-ami --release 20.09 --source table";
    let hints = |text: &str| text.matches("name one with --region").count();
    let ran = folder.sh(ask, records);
    assert_eq!((ran.status, hints(&ran.stderr)), (1, 1), "{}", ran.stderr);
    assert!(ran.stderr.contains("as in eu-central-1"), "another hint is said as well: {}", ran.stderr);
    assert_eq!(hints(&ran.stdout), 2, "each record has its own: {}", ran.stdout);
    let ran = folder.sh(&format!("{ask} --log-format json"), records);
    assert_eq!(hints(&ran.stderr), 2, "so has each line for programs: {}", ran.stderr);
}
