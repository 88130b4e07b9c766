//! Closures with everything odd that a store can hold, and every way to send them.

use crate::machine::{Machines, nix_push, noise};
use crate::relay::{Relay, Rule};
use crate::users::configure;
use serde_json::Value;
use tests::sample;

/// One closure of all kinds of paths.
fn odd(files: usize, sparse: bool) -> String {
    let sparse = if sparse { "with open(out + '/sparse', 'wb') as f: f.truncate(5 << 30)\\n" } else { "" };
    format!(
        r#"let
          tree = path "odd-tree" [ ] "os.makedirs(out + '/' + '/'.join(['d' * 50] * 60))
os.mkdir(out + '/empty folder')
for name, size in [('empty', 0), ('one', 1), ('seven', 7), ('eight', 8), ('Case', 1), ('case', 2), ('CASE', 3), ('.hidden', 1), ('ä😀', 9), ('quote \" and \\ back', 1), ('new\\nline', 1), ('-n', 1), ('*', 1), ('x' * 255, 1), ('block', 131072), ('more', 131073)]:
  open(out + '/' + name, 'wb').write(b'x' * size)
open(os.fsencode(out) + b'/not \\xff UTF-8', 'wb').close()
open(out + '/run', 'w').write('#!/bin/sh')
os.chmod(out + '/run', 0o755)
os.symlink('nowhere/at all', out + '/dangling')
os.symlink('empty folder', out + '/link')
os.symlink('/' + 'y' * 4000, out + '/long link')
{sparse}";
          many = path "odd-many" [ ] "for i in range({files}):
  folder = out + '/' + str(i % 100)
  os.makedirs(folder, exist_ok=True)
  open(folder + '/' + str(i), 'w').write(str(i))";
          file = path "odd-file" [ ] "open(out, 'w').write('a file alone')";
          run = path "odd-run" [ ] "open(out, 'w').write('#!/bin/sh'); os.chmod(out, 0o755)";
          link = path "odd-link" [ file ] "os.symlink(os.environ['references'], out)";
          self = path "odd-self" [ ] "os.mkdir(out); open(out + '/me', 'w').write(out)";
          fixed = derivation {{ name = "odd-fixed"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo fixed > $out" ];
            outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "fixed\n"; }};
          text = builtins.toFile "odd-text" "no deriver, by its content, with a reference: ${{builtins.toFile "odd-inner" "inner"}}";
          source = builtins.path {{ path = ./source; name = "odd-source"; }};
          a = path "odd+name=._?-1" [ ] "open(out, 'w').write('odd name')";
        in path "odd-top" [ tree many file run link self fixed text "${{source}}" a ] "open(out, 'w').write(os.environ['references'])""#
    )
}

#[test]
fn every_oddity_arrives_as_it_was() {
    let machines = Machines::new("odd", 1);
    std::fs::create_dir_all(machines.path().join("source/sub")).unwrap();
    std::fs::write(machines.path().join("source/sub/file"), "a source without a deriver").unwrap();
    let all = sample(1, 0) == 1;
    let top = machines.build(&odd(if all { 100_000 } else { 3_000 }, all));
    let closure = machines.pushed(&top, "");
    assert_eq!(closure["sentPaths"], closure["paths"]);
    machines.assert_has(0, &top);
    machines.assert_store_is_sound(0, "oddities");
    // All that is known of the paths arrives, too: hash, size, deriver, references, content address.
    let ask = |paths: &[String]| {
        format!(
            "nix-store -q --size --hash {0}; nix-store -q --deriver {0}; for p in {0}; do echo $p; nix-store -q --references $p; done
             nix --extra-experimental-features nix-command path-info --json {0}",
            paths.join(" ")
        )
    };
    let paths = machines.closure(&top);
    let split = |text: String| {
        let (lines, json) = text.trim().rsplit_once('\n').map(|(a, b)| (a.to_string(), b.to_string())).unwrap();
        let mut infos: Value = serde_json::from_str(&json).unwrap();
        for info in infos.as_array_mut().unwrap() {
            info.as_object_mut()
                .unwrap()
                .retain(|name, _| ["path", "ca", "narHash", "deriver"].contains(&name.as_str()));
        }
        (lines, infos)
    };
    let here = split(machines.folder.sh(&ask(&paths), "").ok().stdout);
    let there = split(machines.ssh(0, &ask(&paths)).ok().stdout);
    assert_eq!(here, there);
    let content_addressed = here.1.as_array().unwrap().iter().filter(|info| info["ca"].is_string()).count();
    assert_eq!(content_addressed, 4, "text, inner text, fixed output, source");
}

#[test]
fn each_compression_and_each_fallback_carries_a_closure() {
    let machines = Machines::new("packing", 1);
    let top = machines.build(&noise("packing", 30, 50_000));
    for packing in ["zstd", "gzip", "none"] {
        let closure = machines.pushed(&top, &format!("--compress {packing}"));
        assert_eq!(closure["sentPaths"], 30, "{packing}");
        machines.assert_has(0, &top);
        machines.forget(0, &top);
    }
    // A program that is not there for the login.
    let hide =
        |name: &str| format!("p=$(readlink -f $(command -v {name})); mount --bind /dev/null $p; ! command -v {name}");
    machines.ssh(0, &hide("zstd")).ok();
    let without = machines.push(&top, "--compress zstd", &machines.records);
    assert_eq!(without.record()["error"]["kind"], "copy");
    machines.pushed(&top, "");
    machines.assert_has(0, &top);
    machines.forget(0, &top);
    machines.ssh(0, &hide("gzip")).ok();
    let closure = machines.pushed(&top, "");
    assert!(closure["compressedBytes"].as_u64() >= closure["sentBytes"].as_u64(), "{closure}");
    machines.assert_has(0, &top);
}

#[test]
fn a_login_shell_that_talks_is_not_taken_for_nix() {
    let machines = Machines::new("talks", 1);
    machines.ssh(0, "echo 'echo hi; echo error: no mail >&2' > /root/.bashrc").ok();
    let top = machines.build(&noise("talks", 20, 100_000));
    assert!(machines.ssh_input(0, "true", b"").stdout.contains("hi"));
    machines.pushed(&top, "");
    machines.ssh(0, "rm /root/.bashrc").ok();
    machines.assert_has(0, &top);
    machines.forget(0, &top);

    // What it says is no complaint of the machine's, either.
    machines.ssh(0, "echo 'echo hi; echo error: no mail >&2' > /root/.bashrc").ok();
    let relay = Relay::new(machines.address(0), Rule { cut_after: Some(1_000_000), ..Rule::default() });
    let error = machines.push(&top, "", &[machines.record_at(relay.port)]).record()["error"].clone();
    assert_eq!(error["kind"], "unreachable", "{error}");
}

#[test]
fn a_path_that_is_damaged_here_is_refused() {
    let machines = Machines::new("damaged", 1);
    // That the machine's Nix warns is no cause.
    configure(&machines, "no-such-setting = 1");
    // One of its own for each run: it is thrown away.
    let seed = format!("damaged-{}", std::process::id());
    let top = machines.build(&noise(&seed, 5, 10_000));
    let bad = machines.closure(&top).into_iter().find(|path| path.ends_with("-2")).unwrap();
    let spoil =
        format!("chmod u+w {bad}/data {bad} && printf x | dd of={bad}/data bs=1 seek=5000 conv=notrunc status=none");
    machines.folder.sh(&spoil, "").ok();
    let ran = machines.push(&top, "", &machines.records);
    let error = ran.record()["error"].clone();
    machines.folder.sh(&format!("nix-store --delete {}", machines.closure(&top).join(" ")), "");
    assert_eq!(error["kind"], "copy", "{error}");
    assert!(error["message"].as_str().unwrap().contains(&format!("{bad} is damaged")), "{error}");
    assert!(machines.valid(0, &[bad, top]).is_empty());
    machines.assert_store_is_sound(0, "a damaged path");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_store_whose_files_are_elsewhere_is_read_through_nix() {
    let machines = Machines::new("elsewhere", 1);
    let seed = format!("elsewhere-{}", std::process::id());
    let top = machines.build(&noise(&seed, 6, 20_000));
    let paths = machines.closure(&top).join(" ");
    let root = machines.path().join("root");
    let by = |setting: &str, script: &str| {
        let script = format!("export {setting}local?root={root}'; {script}", root = root.display());
        machines.folder.sh(&script, machines.records[0].to_string())
    };
    let elsewhere = |script: &str| by("NIX_REMOTE='", script);
    let here = "env -u NIX_REMOTE nix-store";
    let fill = format!(
        "mkdir -p {root}; {here} --export {paths} | nix-store --import >/dev/null
         {here} --delete {paths} >/dev/null 2>&1; [ ! -e {top} ]",
        root = root.display()
    );
    elsewhere(&fill).ok();
    let data = format!("{}{top}/data", root.display());
    // One that is damaged there: its NAR is shorter, or of the same size.
    for damage in [format!("truncate --size=-1000 {data}"), format!("truncate --size=+1000 {data}")] {
        let script = format!(
            "cp -p {data} whole; chmod u+w {data}; {damage}; timeout 60 {push} --toplevel {top}",
            push = nix_push()
        );
        let error = elsewhere(&script).record()["error"].clone();
        assert_eq!(error["kind"], "copy", "{damage}: {error}");
        assert!(error["message"].as_str().unwrap().contains(&format!("{top} is damaged")), "{damage}: {error}");
        elsewhere(&format!("cp -p whole {data}; rm -f whole")).ok();
    }
    // One of the same name here is another one's.
    let other =
        format!("nix-store --export {paths} | {here} --import >/dev/null; chmod u+w {top}/data; echo x >> {top}/data");
    elsewhere(&other).ok();
    let ran = ["NIX_REMOTE='", "NIX_CONFIG=\"$NIX_CONFIG\"'\nstore = "].map(|setting| {
        let ran = by(setting, &format!("{} --toplevel {top}", nix_push()));
        let whole = machines.ssh(0, &format!("nix-store --verify-path {paths}"));
        machines.forget(0, &top);
        (setting, ran, whole)
    });
    elsewhere(&format!("{here} --delete {paths} >/dev/null; chmod -R u+w {}", root.display()));
    for (setting, ran, whole) in ran {
        assert_eq!(ran.ok().record()["closure"]["sentPaths"], 6, "{setting}");
        whole.ok();
    }
}
