//! The ways in: what `make install`, the Debian package, Nix and the release archive hold.

use crate::TOOLS;
use tests::{Folder, project, tool};

/// `make install` of the binaries that these tests run, by somebody with oh-my-zsh and a narrow umask.
fn install(folder: &Folder, more: &str) {
    let (project, bin) = (project(), tool(""));
    let make = format!("make --silent -C {} install BIN={} {more}", project.display(), bin.display());
    folder.sh(&format!("umask 077; ZSH=$PWD/.oh-my-zsh {make}"), "").ok();
}

#[test]
fn make_install_puts_tools_pages_and_completions_in_their_places_and_uninstall_takes_them_away() {
    let folder = Folder::new("install");
    let root = folder.path().join("root");
    let places = format!("DESTDIR={} PREFIX=/usr", root.display());
    install(&folder, &places);
    let mut files: Vec<String> = [
        "man/man5/machine-record.5",
        "man/man7/nixpipe.7",
        "doc/nixpipe/examples/deploy",
        "doc/nixpipe/examples/make/Makefile",
    ]
    .map(|file| format!("share/{file}"))
    .into();
    for (tool, _) in TOOLS {
        files.extend([
            format!("bin/{tool}"),
            format!("share/man/man1/{tool}.1"),
            format!("share/bash-completion/completions/{tool}"),
            format!("share/zsh/site-functions/_{tool}"),
            format!("share/fish/vendor_completions.d/{tool}.fish"),
        ]);
    }
    for file in &files {
        let path = root.join("usr").join(file);
        assert!(path.metadata().is_ok_and(|metadata| metadata.len() > 100), "{file}");
    }
    assert_eq!(folder.sh("find root/usr ! -perm -o=r", "").ok().stdout, "", "all may read them");
    let ran = folder.sh("PATH=root/usr/bin:/usr/bin:/bin; command -v nix-push; nix-push --version", "").ok();
    assert!(ran.stdout.starts_with("root/usr/bin/nix-push\nnix-push "), "{}", ran.stdout);
    let page =
        folder.sh("MANPATH=$PWD/root/usr/share/man man -w 7 nixpipe || ls root/usr/share/man/man7/nixpipe.7", "");
    assert!(page.ok().stdout.ends_with("nixpipe.7\n"));
    folder.sh(&format!("make --silent -C {} uninstall {places}", project().display()), "").ok();
    assert_eq!(folder.sh("find root -type f", "").ok().stdout, "");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn cargo_install_makes_a_tool() {
    let folder = Folder::new("cargo-install");
    let readme = std::fs::read_to_string(project().join("README.md")).unwrap();
    let line = readme.split('`').find(|code| code.contains("cargo install")).unwrap();
    // Of all tools the one with the fewest crates.
    let line = line.replace("nixos-ami keygen ec2-up nix-push nixos-switch", "keygen");
    assert!(line.starts_with("for crate in keygen;"), "{line}");
    // The crates are there: these tests are made of them.
    let environment = "export CARGO_INSTALL_ROOT=$PWD CARGO_NET_OFFLINE=true";
    folder.sh(&format!("{environment}; cd {} && {line}", project().display()), "").ok();
    let made = folder.sh("bin/keygen -n --name a | jq -r .keyPair.algorithm; ls bin", "").ok().stdout;
    assert_eq!(made, "ed25519\nkeygen\n");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn the_debian_package_installs_and_its_tools_run() {
    let folder = Folder::new("deb");
    let package = project().join("scripts/package-deb");
    let package = format!("COMPRESSION=none BIN={} {}", tool("").display(), package.display());
    // A unit of systemd's has none where it names no user.
    folder.sh(&format!("unset HOME; {package} out"), "").ok();
    // Another root, with a database of its own: what the package needs stands in its control file.
    let script = "mkdir -p root/var/lib/dpkg/updates root/var/lib/dpkg/info && touch root/var/lib/dpkg/status
                  dpkg --root=$PWD/root --force-depends --force-script-chrootless --install out/nixpipe_*.deb
                  dpkg --root=$PWD/root --list nixpipe
                  root/usr/bin/keygen -n --name a | jq -r .keyPair.algorithm";
    let ran = folder.sh(&format!("set -e\n{script}"), "").ok();
    assert!(ran.stdout.ends_with("ed25519\n"), "{}", ran.stdout);
    // What was changed after the installation is found, and nothing in it tells when it was packed.
    folder.sh("dpkg --root=$PWD/root --verify nixpipe | tee verified; [ ! -s verified ]", "").ok();
    folder.sh("echo >> root/usr/share/doc/nixpipe/README.md", "").ok();
    let changed = folder.sh("dpkg --root=$PWD/root --verify nixpipe; true", "").ok().stdout;
    assert!(changed.ends_with("/usr/share/doc/nixpipe/README.md\n"), "{changed}");
    let times = folder.sh("dpkg-deb --contents out/nixpipe_*.deb | awk '{ print $4, $5 }' | sort -u", "").ok().stdout;
    assert_eq!(times.lines().count(), 1, "{times}");
    let depends = folder.sh("dpkg-deb --field out/nixpipe_*.deb Depends Architecture", "").ok().stdout;
    for word in ["libc6 (>= ", "libssl3", "Architecture: "] {
        assert!(depends.contains(word), "{depends}");
    }
    // Debian's zsh looks for completions of packages here, and not where others put them.
    folder.sh("cp root/usr/share/zsh/vendor-completions/_nix-push . && zsh -f -c 'print -l $fpath' | grep -x /usr/share/zsh/vendor-completions", "").ok();
    folder.sh("dpkg --root=$PWD/root --purge nixpipe", "").ok();
    assert_eq!(folder.sh("find root/usr -type f", "").stdout, "");
    // Why there is no package is said.
    let broken =
        "mkdir bin; printf '#!/bin/sh\necho no such library >&2; exit 2\n' > bin/dpkg-shlibdeps; chmod +x bin/*";
    folder.sh(broken, "").ok();
    let ran = folder.sh(&format!("PATH=$PWD/bin:$PATH; {package} none"), "");
    assert!(ran.status == 1 && ran.stderr.ends_with("no such library\n"), "{ran:?}");
}

#[test]
fn the_flake_offers_a_package_and_every_tool() {
    let folder = Folder::new("flake");
    // nixpkgs itself is not here: a stand-in that records what its Rust builder is asked for.
    std::fs::create_dir(folder.path().join("nixpkgs")).unwrap();
    std::fs::write(
        folder.path().join("nixpkgs/flake.nix"),
        r#"{ outputs = { self }: let
               lib = import NIXPKGS/lib // {
                 licenses = { mit = "mit"; asl20 = "asl20"; };
                 platforms.linux = [ "x86_64-linux" ];
                 cleanSourceWith = { src, filter }: builtins.path { path = src; inherit filter; name = "source"; };
               };
               pkgs = system: {
                 inherit lib; rustc.version = "1.95.0"; pkg-config = null; openssl = null; zlib = null;
                 rustPlatform.buildRustPackage = args: args // derivation {
                   name = "${args.pname}-${args.version}"; inherit system; builder = "/bin/sh"; src = "${args.src}"; };
                 callPackage = file: args: let f = import file; in
                   f (builtins.intersectAttrs (builtins.functionArgs f) (pkgs system) // args);
               };
             in { legacyPackages = { x86_64-linux = pkgs "x86_64-linux"; aarch64-linux = pkgs "aarch64-linux"; }; }; }"#
            .replace("NIXPKGS", &project().join("tests/nixpkgs").display().to_string()),
    )
    .unwrap();
    let nix = |command: &str| {
        let features = "--extra-experimental-features 'nix-command flakes' --impure";
        let flake = format!("{} --override-input nixpkgs path:./nixpkgs --no-write-lock-file", features);
        folder.sh(&format!("nix {command} {flake}"), "").ok().stdout
    };
    tests::cloud();
    // Nix copies the whole folder of a flake: here without target/.
    std::fs::create_dir(folder.path().join("flake")).unwrap();
    for file in ["flake.nix", "package.nix", "Cargo.toml", "Cargo.lock"] {
        std::fs::copy(project().join(file), folder.path().join("flake").join(file)).unwrap();
    }
    nix("flake check path:./flake");
    let version = nix("eval --raw path:./flake#packages.x86_64-linux.default.version");
    assert!(folder.sh("nix-push --version", "").ok().stdout.contains(&version), "{version}");
    // What is too old is said before anything is built.
    let old = "sed -i 's/1.95.0/1.91.1/' nixpkgs/flake.nix; nix eval --raw path:./flake#packages.x86_64-linux.default.name \
               --extra-experimental-features 'nix-command flakes' --impure --override-input nixpkgs path:./nixpkgs \
               --no-write-lock-file; s=$?; sed -i 's/1.91.1/1.95.0/' nixpkgs/flake.nix; exit $s";
    let ran = folder.sh(old, "");
    assert!(ran.status != 0 && ran.stderr.contains("needs Rust 1.95, and this nixpkgs has 1.91.1"), "{}", ran.stderr);
    for (tool, _) in TOOLS {
        let program = nix(&format!("eval --raw path:./flake#apps.aarch64-linux.{tool}.program"));
        assert!(program.ends_with(&format!("-nixpipe-{version}/bin/{tool}")), "{program}");
    }
}

#[test]
#[ignore = "long: scripts/test --all"]
fn the_licences_of_all_that_is_shipped_are_permitted_and_listed() {
    let folder = Folder::new("licences");
    let script = project().join("scripts/dependencies");
    let script = script.display();
    folder.sh(&format!("{script} check"), "").ok();
    let names = |target: &str| -> Vec<String> {
        let bill = folder.sh(&format!("{target} {script} sbom"), "").ok().stdout;
        let bill: serde_json::Value = serde_json::from_str(&bill).unwrap();
        bill["components"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().into()).collect()
    };
    let has = |names: &[String], wanted: &str| names.iter().any(|name| name == wanted);
    let here = names("");
    for name in ["nix-push", "aws-sdk-ec2", "libssh2-sys", "libssh2", "zstd-sys", "zstd", "rust-std"] {
        assert!(has(&here, name), "{name}");
    }
    // What only tests use is in no binary; nor is what features would bring in that nobody asks for, what only writes code
    // for the compiler, or what the system has.
    for name in ["jsonschema", "schemars", "p256", "serde_derive", "openssl", "zlib", "musl"] {
        assert!(!has(&here, name), "{name}");
    }
    let of_static = "TARGET=x86_64-unknown-linux-musl";
    let names = names(of_static);
    for name in ["nix-push", "libssh2", "openssl", "zlib", "rust-std", "musl", "libunwind"] {
        assert!(has(&names, name), "{name}");
    }
    let notices = folder.sh(&format!("{of_static} {script} notices"), "").ok().stdout;
    for words in ["The Rust Project Developers", "Unicode, Inc", "Rich Felker", "Jean-loup Gailly", "Daniel Stenberg"] {
        assert!(notices.contains(words), "{words}");
    }
}

#[test]
fn crates_from_elsewhere_than_crates_io_are_refused() {
    let folder = Folder::new("sources");
    let from = project();
    let copy = format!("mkdir scripts && cp {0}/scripts/dependencies scripts && cp {0}/deny.toml .", from.display());
    folder.sh(&copy, "").ok();
    let lock = std::fs::read_to_string(from.join("Cargo.lock")).unwrap();
    let elsewhere =
        lock.replacen("registry+https://github.com/rust-lang/crates.io-index", "git+https://example.org/x", 1);
    assert_ne!(lock, elsewhere);
    std::fs::write(folder.path().join("Cargo.lock"), elsewhere).unwrap();
    let ran = folder.sh("scripts/dependencies check", "");
    assert!(ran.status == 1 && ran.stderr.contains(": from git+https://example.org/x\n"), "{ran:?}");
}

#[test]
fn the_record_by_itself_has_neither_flags_nor_network() {
    let tree = "cargo tree --offline -p machine-record --no-default-features -e normal --prefix none -f {p}";
    let crates = Folder::new("crates").sh(&format!("cd {}; {tree}", project().display()), "").ok().stdout;
    assert!(crates.contains("serde_json v"), "{crates}");
    for unwanted in ["clap", "rustix", "tokio", "aws", "libc", "signal"] {
        assert!(!crates.lines().any(|name| name.starts_with(unwanted)), "{crates}");
    }
}

#[test]
fn what_debian_calls_otherwise_is_asked_for_once() {
    let folder = Folder::new("not-debian");
    let script = project().join("scripts/install-packages").display().to_string();
    folder.sh("mkdir bin; ln -s /bin/sh /usr/bin/basename bin", "").ok();
    let install = |packages: &str| folder.sh(&format!("export PATH=$PWD/bin; {packages}"), "");
    let asked = install(&format!("{script} 'to build' gcc jq"));
    assert_eq!(asked.status, 1, "{asked:?}");
    assert!(asked.stderr.contains("install what corresponds to gcc jq (to build)"), "{}", asked.stderr);
    let export = asked.stderr.lines().find_map(|line| line.split_once("export ")).unwrap().1;
    let more = install(&format!("export {export}; {script} 'to build' gcc jq && {script} 'to test' jq zsh"));
    assert!(more.stderr.contains("corresponds to zsh (to test)"), "{}", more.stderr);
    assert!(more.stderr.contains("NIXPIPE_INSTALLED=' gcc jq zsh'"), "{}", more.stderr);
}
