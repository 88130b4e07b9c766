//! The shell scripts for the machine, with what they are to do in front.

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machine_ssh::quote;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

const PATH: &str = "PATH=/run/current-system/sw/bin:$PATH";

const COMMON: &str = include_str!("common.sh");
const SECRETS: &str = include_str!("secrets.sh");
const GUARD: &str = include_str!("guard.sh");
const REBOOT: &str = include_str!("reboot.sh");
const SESSION: &str = include_str!("session.sh");
const RECEIVE: &str = include_str!("receive.sh");
const LOOK: &str = include_str!("look.sh");
const GENERATIONS: &str = include_str!("generations.sh");
const FOLLOW: &str = include_str!("follow.sh");
const JOB: &str = include_str!("job.sh");
const COMMIT: &str = include_str!("commit.sh");

/// Puts the session's script together: assignments, functions, and at the very end the call.
pub fn session(values: &[(&str, String)]) -> String {
    let mut script = String::new();
    for (name, value) in values {
        script += &format!("{name}={}\n", quote(value));
    }
    // Twice needed, once sent: by this session, and in the file of the detached jobs.
    script += &format!("common_text={}\neval \"$common_text\"\n", quote(&shared()));
    script += &format!("job_text={}\n", quote(&jobs()));
    // In the order in which they pack best.
    for part in [GUARD, FOLLOW, LOOK, GENERATIONS, RECEIVE, SESSION] {
        script += &lean(part);
    }
    script + "main\n"
}

fn shared() -> String {
    lean(COMMON) + &lean(SECRETS) + &lean(REBOOT)
}

/// What only the detached jobs need.
fn jobs() -> String {
    lean(JOB) + &lean(COMMIT)
}

/// A script as it is sent: a third of its length. All of it is to fit into what TCP sends before it
/// waits for the first answer.
pub fn pack(script: &str) -> Result<Vec<u8>> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(script.as_bytes())?;
    Ok(packer.finish()?)
}

/// The command that takes a packed script from its stdin and runs it, with what comes after the
/// script as stdin; one that was cut off on its way does not unpack, and does nothing. Any login shell understands these words; `sh -s` would do if every shell read
/// its script byte by byte.
pub fn command(packed: &[u8]) -> String {
    format!("exec /bin/sh -c '{PATH}; s=$(head -c {} | gzip -dc) && eval \"$s\"'", packed.len())
}

/// The same with the script within, which saves a round trip: OpenSSH opens the window for a command's
/// stdin only when that has started. Others on the machine can see it, and sudo logs it.
pub fn whole_command(packed: &[u8]) -> String {
    format!(
        "exec /bin/sh -c '{PATH}; s=$(printf %s {} | base64 -d | gzip -dc) && eval \"$s\"'",
        STANDARD.encode(packed)
    )
}

/// A script without comments and indentation: it goes over the network for every machine.
fn lean(script: &str) -> String {
    let lines = script.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Makes the name of one deployment, which no other one has.
pub fn token(machine: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut random = [0; 16];
    // Without /dev/urandom, time, process and count still tell deployments apart.
    let _ = std::fs::File::open("/dev/urandom").and_then(|mut file| std::io::Read::read_exact(&mut file, &mut random));
    let mut hash = Sha256::new();
    hash.update(random);
    hash.update(format!("{machine} {:?} {} ", SystemTime::now(), std::process::id()));
    hash.update(COUNT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn run(script: &str) -> String {
        run_by("/bin/sh", script)
    }

    fn run_by(shell: &str, script: &str) -> String {
        let mut shell = Command::new(shell)
            .args(["-s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // A shell that has ended early takes no more.
        let _ = shell.stdin.take().unwrap().write_all(script.as_bytes());
        String::from_utf8(shell.wait_with_output().unwrap().stdout).unwrap()
    }

    #[test]
    fn values_arrive_as_they_are() {
        let script = session(&[("x", "it's $(date) `y`\n\"z\"".into())]);
        let script = script.strip_suffix("main\n").unwrap();
        assert_eq!(run(&format!("{script}printf %s \"$x\"\n")), "it's $(date) `y`\n\"z\"");
    }

    #[test]
    fn a_script_that_was_cut_off_does_nothing() {
        let packed = pack(&session(&[("mode", "start".into()), ("instance", String::new())])).unwrap();
        for cut in (0..packed.len()).step_by(97).chain([packed.len() - 1]) {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", &command(&packed)]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = shell.spawn().unwrap();
            child.stdin.take().unwrap().write_all(&packed[..cut]).unwrap();
            assert_eq!(child.wait_with_output().unwrap().stdout, b"", "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_nixos_is_left_alone() {
        // Should this computer be one, the script looks elsewhere.
        let elsewhere = |text: &str| text.replace("/run/current-system", "/nowhere");
        let said = run(&elsewhere(&session(&[("mode", "status".into())])));
        let error = "error=input cannot switch this machine: it has no /run/current-system/sw/bin\n";
        assert_eq!(
            said,
            format!("\nnixpipe\n{}hint=only a machine that runs NixOS can be switched\n", elsewhere(error))
        );
    }

    #[test]
    fn the_scripts_are_lean_and_parse() {
        let script = session(&[]);
        assert!(!script.contains("\n#") && !script.contains("\n "));
        let parsed = Command::new("/bin/sh").args(["-n", "-c", &script]).output().unwrap();
        assert!(parsed.status.success(), "{}", String::from_utf8_lossy(&parsed.stderr));
        let job = format!("{}{}main \"$@\"\n", shared(), jobs());
        assert!(Command::new("/bin/sh").args(["-n", "-c", &job]).status().unwrap().success());
    }

    #[test]
    fn a_packed_script_runs_with_its_stdin_and_fits_into_a_packet() {
        let packed = pack("printf %s \"$0\"; cat\n").unwrap();
        for (command, script) in [(command(&packed), packed.as_slice()), (whole_command(&packed), b"".as_slice())] {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", &command]);
            let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(script).unwrap();
            stdin.write_all(b" and its stdin").unwrap();
            drop(stdin);
            assert_eq!(child.wait_with_output().unwrap().stdout, b"/bin/sh and its stdin");
        }
        // RFC 4253, 6.1: a packet has at most 32768 bytes. Nearly a third of it is left for health commands.
        let length = whole_command(&pack(&session(&[])).unwrap()).len();
        assert!(length < 22_200, "{length}");
    }

    #[test]
    fn the_log_arrives_byte_for_byte_in_any_locale() {
        let log = std::env::temp_dir().join(format!("nixpipe-log-{}", token("log")));
        let text = "se\0n\n\tgr\0ün \\ \n\nno end";
        std::fs::write(&log, text).unwrap();
        let script = format!(
            "LC_ALL=C.UTF-8 offset=5; exec 8<{0}; {1}show; printf more >>{0}; show\n",
            log.display(),
            lean(FOLLOW)
        );
        // Machines have bash, whose characters are those of the locale.
        for shell in ["sh", "bash"] {
            let said = run_by(shell, &script);
            assert_eq!(said, "log=10 16\n\tgrün \\ \nlog=1 17\n\nlog=6 23\nno endlog=4 27\nmore", "{shell}");
            std::fs::write(&log, text).unwrap();
            // What is long goes on in one piece.
            let script =
                format!("seq 300 >{0}; now=x offset=0; exec 8<{0}; {1}show; show\n", log.display(), lean(FOLLOW));
            let said = run_by(shell, &script);
            let (lines, rest) = said.split_once("log=800 1092\n").unwrap();
            assert_eq!(lines.matches("log=").count(), 100);
            assert!(rest.starts_with("101\n") && rest.ends_with("\n300\n") && rest.len() == 800);
            std::fs::write(&log, text).unwrap();
        }
        std::fs::remove_file(&log).unwrap();
    }

    #[test]
    fn the_entry_that_boots_is_read_out_of_any_menu() {
        let menu = std::env::temp_dir().join(format!("nixpipe-menu-{}", token("menu")));
        let one_time = "if [ \"${next_entry}\" ]; then\n  set default=\"${next_entry}\"\nelse\n";
        for (text, entry) in [
            ("  linux /k init=/nix/store/a-b/init quiet\n  linux /k init=/nix/store/c/init\n", "/nix/store/a-b"),
            (&format!("{one_time}  set default=0\nlinux /k init=/nix/store/a/init\n"), "/nix/store/a"),
            ("set default=\"0\"\nlinux /k init=/nix/store/a/init", "/nix/store/a"),
            // The user's own default is one that we do not follow.
            ("set default=1\nlinux /k init=/nix/store/a/init\n", ""),
            ("set default=\"${saved_entry}\"\nlinux /k init=/nix/store/a/init\n", ""),
            ("linux /vmlinuz root=/dev/sda1 init=/sbin/init\n", ""),
            ("", ""),
        ] {
            std::fs::write(&menu, text).unwrap();
            let script = format!("{}entry=; first_init {}; printf %s \"$entry\"\n", lean(COMMON), menu.display());
            assert_eq!(run(&script), entry, "{text}");
        }
        std::fs::remove_file(&menu).unwrap();
    }

    #[test]
    fn no_two_deployments_share_a_token() {
        assert_ne!(token("a"), token("a"));
        assert_eq!(token("a").len(), 32);
    }
}
