//! Which ciphers are asked for: that depends on the server.

use super::{EAGAIN, TIMED_OUT};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::MethodType;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// AES-GCM first: with a server older than [`STRICT`], somebody on the way could leave out the first packets that ChaCha20
/// encrypts (CVE-2023-48795).
pub(super) const ANY: &str =
    "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr,aes256-ctr";

/// With others ChaCha20: libssh2 encrypts a packet of it at once, and of all others 16 bytes at a time, by a call of OpenSSL
/// each (measured in docs/copy.md).
const STRICT_ONES: &str =
    "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-ctr,aes256-ctr";

/// The first OpenSSH that counts packets from the key exchange on (`kex-strict-s-v00@openssh.com`), as libssh2 does with it.
const STRICT: [u32; 2] = [9, 6];

/// Exchanges keys, and chooses the ciphers by what the server says that it is, before they are negotiated.
/// Whoever changes that on the way is found out: both sides sign it (RFC 4253, section 8).
pub(super) fn shake_hands(ssh: &mut ssh2::Session, socket: &OwnedFd, timeout: Duration) -> Result<(), ssh2::Error> {
    ssh.set_blocking(false);
    let begun = ssh.handshake();
    ssh.set_blocking(true);
    match begun {
        Err(error) if error.code() == EAGAIN => {}
        other => return other,
    }
    let wait = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    if let Ok(0) = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&wait)) {
        return Err(ssh2::Error::new(TIMED_OUT, "it says nothing"));
    }
    let mut said = [0; 255];
    // Any kind of socket can be looked at so.
    let count = socket.try_clone().and_then(|socket| TcpStream::from(socket).peek(&mut said)).unwrap_or(0);
    if is_strict(&said[..count]) {
        prefer(ssh, STRICT_ONES)?;
    }
    ssh.handshake()
}

pub(super) fn prefer(ssh: &ssh2::Session, ciphers: &str) -> Result<(), ssh2::Error> {
    [MethodType::CryptCs, MethodType::CryptSc].into_iter().try_for_each(|direction| ssh.method_pref(direction, ciphers))
}

/// Whether a server that says so is an OpenSSH that is no older than [`STRICT`].
fn is_strict(said: &[u8]) -> bool {
    let version = || {
        let version = said.strip_prefix(b"SSH-2.0-OpenSSH_")?;
        let end = version.iter().position(|byte| !(byte.is_ascii_digit() || *byte == b'.'))?;
        let mut numbers = std::str::from_utf8(&version[..end]).ok()?.split('.').map(|number| number.parse().ok());
        Some([numbers.next()??, numbers.next()??])
    };
    version().is_some_and(|version| version >= STRICT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_counts_packets_says_so_by_its_version() {
        for said in ["9.6\r\n", "9.9p1\r\n", "9.10\r", "10.0p2 Debian-5\r\n"] {
            assert!(is_strict(format!("SSH-2.0-OpenSSH_{said}").as_bytes()), "{said}");
        }
        for said in ["9.5p1\r\n", "8.10\r\n", "9\r\n", "9.6", "9.\r\n", "x\r\n", ""] {
            assert!(!is_strict(format!("SSH-2.0-OpenSSH_{said}").as_bytes()), "{said}");
        }
        assert!(!is_strict(b"") && !is_strict(b"SSH-2.0-dropbear_2024.85\r\n"));
    }
}
