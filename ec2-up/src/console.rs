//! The host key fingerprints that NixOS prints on the console at boot.
//!
//! nixpkgs, `nixos/modules/virtualisation/ec2-data.nix`, service `print-host-key`: a line of
//! `ssh-keygen -l` for each key, between two markers. The console comes late and in pieces, holds
//! one block for each boot, and other messages may stand between the lines.

use crate::region::Region;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machine_record::Failure;

const BEGIN: &str = "-----BEGIN SSH HOST KEY FINGERPRINTS-----";
const END: &str = "-----END SSH HOST KEY FINGERPRINTS-----";

/// Reads the console: the fingerprints of the last whole block, none if there is no such block yet.
pub async fn fingerprints(region: &Region, machine: &str, id: &str) -> Result<Vec<String>, Failure> {
    let output = async |latest: bool| {
        let read = region.aws.call(machine, "GetConsoleOutput", id, |client| {
            // `latest`: not the copy of a few minutes ago; types before Nitro have only that.
            client.get_console_output().instance_id(id).set_latest(latest.then_some(true)).send()
        });
        read.await
    };
    let read = match output(true).await {
        Err(error) if error.is(&["UnsupportedOperation", "InvalidParameterCombination"]) => output(false).await,
        read => read,
    };
    match read {
        Ok(read) => Ok(last_block(&decode(read.output().unwrap_or_default()))),
        // A new instance may not be known everywhere yet.
        Err(error) if error.is(&["InvalidInstanceID.NotFound", "IncorrectInstanceState"]) => Ok(Vec::new()),
        Err(error) => Err(error.failure("cannot read the console")),
    }
}

/// The SDK leaves the base64 in place, and moto leaves it out.
fn decode(output: &str) -> String {
    let packed: String = output.split_whitespace().collect();
    match STANDARD.decode(packed) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => output.into(),
    }
}

/// The fingerprints of the last block that has an end and is not empty.
fn last_block(console: &str) -> Vec<String> {
    let mut last = Vec::new();
    let mut block: Option<Vec<String>> = None;
    for line in console.lines() {
        if line.contains(BEGIN) {
            block = Some(Vec::new());
        } else if line.contains(END) {
            if let Some(found) = block.take().filter(|found| !found.is_empty()) {
                last = found;
            }
        } else if let Some(block) = &mut block {
            block.extend(line.split_whitespace().filter(|word| is_fingerprint(word)).map(String::from));
        }
    }
    last
}

/// 32 bytes in base64 without padding.
fn is_fingerprint(word: &str) -> bool {
    word.strip_prefix("SHA256:").is_some_and(|hash| {
        hash.len() == 43 && hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(letter: char) -> String {
        format!("SHA256:{}", letter.to_string().repeat(43))
    }

    fn block(letters: &str) -> String {
        let lines: String = letters.chars().map(|c| format!("256 {} root@host (ED25519)\r\n", print(c))).collect();
        format!("{BEGIN}\r\n{lines}{END}\r\n")
    }

    #[test]
    fn the_last_whole_block_counts() {
        let console =
            format!("boot\n{}more\n{}{BEGIN}\n256 {} root@host (ED25519)\n", block("a"), block("bc"), print('d'));
        assert_eq!(last_block(&console), [print('b'), print('c')]);
    }

    #[test]
    fn an_empty_block_is_none() {
        assert_eq!(last_block(&block("")), [""; 0]);
        assert_eq!(last_block(&format!("{}{}", block("a"), block(""))), [print('a')]);
        assert_eq!(last_block(""), [""; 0]);
    }

    #[test]
    fn other_lines_may_stand_between() {
        let text = format!("[ 1.0] ec2: {BEGIN}\n[ 1.1] usb 1-1\n3072 {} no comment (RSA)\n{END}", print('a'));
        assert_eq!(last_block(&text), [print('a')]);
    }

    #[test]
    fn what_is_no_fingerprint_is_left_out() {
        assert_eq!(last_block(&format!("{BEGIN}\n256 SHA256:short root@host\n256 MD5:00:11 x\n{END}\n")), [""; 0]);
    }

    #[test]
    fn base64_is_taken_off_where_it_is() {
        assert_eq!(decode(&STANDARD.encode("a\nb")), "a\nb");
        assert_eq!(decode("plain text: no base64"), "plain text: no base64");
    }
}
