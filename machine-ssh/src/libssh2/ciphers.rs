//! Which ciphers are asked for: that depends on the server.

use super::{EAGAIN, TIMED_OUT, milliseconds, timespec};
use rustix::event::{PollFd, PollFlags, poll};
use ssh2::{ErrorCode, MethodType};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

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

/// LIBSSH2_ERROR_BANNER_RECV of libssh2.h.
const BANNER: ErrorCode = ErrorCode::Session(-2);

/// Exchanges keys, and chooses the ciphers by what the server says that it is, before they are negotiated.
///
/// What is seen on the socket by then may be somebody else's. What the exchange took for the server's words is signed by
/// both sides (RFC 4253, section 8): it has to say the same.
pub(super) fn shake_hands(ssh: &mut ssh2::Session, socket: &OwnedFd, timeout: Duration) -> Result<(), ssh2::Error> {
    let began = Instant::now();
    ssh.set_blocking(false);
    let begun = ssh.handshake();
    ssh.set_blocking(true);
    match begun {
        Err(error) if error.code() == EAGAIN => {}
        other => return other,
    }
    if let Ok(0) = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timespec(timeout))) {
        return Err(ssh2::Error::new(TIMED_OUT, "it says nothing"));
    }
    let mut said = [0; 255];
    // Any kind of socket can be looked at so.
    let count = socket.try_clone().and_then(|socket| TcpStream::from(socket).peek(&mut said)).unwrap_or(0);
    let strict = is_strict(&said[..count]);
    if strict {
        prefer(ssh, STRICT_ONES)?;
    }
    // No time limit at all is what 0 would be.
    ssh.set_timeout(milliseconds(timeout.saturating_sub(began.elapsed())).max(1));
    let shaken = ssh.handshake();
    ssh.set_timeout(milliseconds(timeout));
    shaken?;
    let signed = [ssh.banner_bytes().unwrap_or_default(), b"\r\n"].concat();
    if strict && !is_strict(&signed) {
        return Err(ssh2::Error::new(BANNER, "somebody on the way gives it another version than its own"));
    }
    Ok(())
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
