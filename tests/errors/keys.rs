//! Keys that keygen cannot use.

use crate::says;
use tests::Folder;

#[test]
fn a_key_that_ec2_does_not_take_is_named() {
    let folder = Folder::new("kinds-of-keys");
    for (make, words, hint) in [
        ("openssl genpkey -quiet -algorithm ed25519 -out key", "a PKCS#8 key that is not RSA", "in OpenSSH's format"),
        (
            "openssl ecparam -genkey -noout -name prime256v1 -out key",
            "it holds a EC PRIVATE KEY",
            "takes ed25519 and RSA",
        ),
    ] {
        folder.sh(&format!("rm -f key; {make}; chmod 600 key"), "").ok();
        says(&folder, "keygen -n --file key", "", 1, &["cannot use ", words, hint]);
    }
}

#[test]
fn an_agent_that_cannot_help_is_told_of() {
    let folder = Folder::new("agents");
    let ask = "keygen -n --from-agent";
    says(&folder, &format!("SSH_AUTH_SOCK=/nowhere {ask}"), "", 1, &["cannot ask the ssh-agent at /nowhere"]);
    let empty = format!("eval \"$(ssh-agent)\" > /dev/null; trap 'ssh-agent -k > /dev/null' EXIT; {ask}");
    says(&folder, &empty, "", 1, &["the ssh-agent has no ed25519 or RSA key", "hint: add one: ssh-add FILE"]);
    for (answer, words) in [
        (r"\xff\xff\xff\xff", "its answer is too long"),
        (r"\x00\x00\x00\x01\x05", "the ssh-agent's answer cannot be understood"),
    ] {
        let agent = format!(
            "import socket; s = socket.socket(socket.AF_UNIX); s.bind('odd'); s.listen(); open('ready', 'w'); \
             c = s.accept()[0]; c.recv(99); c.send(b'{answer}')"
        );
        let script = format!(
            "rm -f odd ready; python3 -c \"{agent}\" & until [ -e ready ]; do sleep 0.05; done; SSH_AUTH_SOCK=odd {ask}"
        );
        says(&folder, &script, "", 1, &[words]);
    }
}
