//! EC2 over HTTPS, as AWS speaks it: a server with a certificate in front of the local one.

use crate::region::Region;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use tests::project;

/// Hands on to `target` what comes over TLS; prints its port.
const SERVER: &str = r#"
import socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('cert.pem', 'key.pem')
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
def copy(source, sink):
    try:
        while piece := source.recv(65536): sink.sendall(piece)
    except OSError: pass
    finally: sink.close()
def serve(client):
    if len(sys.argv) > 2:
        head = client.recv(4096)
        print(head.split(b'\r\n')[0].decode(), flush=True)
        client.sendall(b'HTTP/1.1 200 OK\r\n\r\n')
    else:
        try: client = context.wrap_socket(client, server_side=True)
        except OSError: return
    target = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
    threading.Thread(target=copy, args=(client, target), daemon=True).start()
    copy(target, client)
while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

struct Server(Child, u16, BufReader<std::process::ChildStdout>);

impl Server {
    fn new(region: &Region, arguments: &[&str]) -> Server {
        let mut command = Command::new("python3");
        command.args(["-c", SERVER]).args(arguments).current_dir(region.folder.path());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut port = String::new();
        lines.read_line(&mut port).unwrap();
        Server(child, port.trim().parse().unwrap(), lines)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "long: scripts/test --all"]
fn certificates_are_checked_and_proxies_of_the_environment_are_used() {
    let region = Region::new("https");
    let certificate = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -addext basicConstraints=critical,CA:FALSE -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost,DNS:ec2.eu-central-1.amazonaws.com 2>/dev/null";
    region.sh(certificate, "").ok();
    let server = Server::new(&region, &[&region.port.to_string()]);
    let there = format!("AWS_ENDPOINT_URL=https://localhost:{}", server.1);

    // Both programs that speak with EC2 make their own connection.
    for tool in ["ec2-ls -n --deployment d", "nixos-ami -n --source ec2 --release 25.11"] {
        region.sh(&format!("SSL_CERT_FILE=cert.pem {there} {tool}"), "").ok();
        // It is not tried again and again.
        let ran = region.sh(&format!("{there} {tool}"), "");
        assert_eq!(ran.status, 1);
        assert!(
            ran.stderr.contains("invalid peer certificate") && ran.stderr.contains("SSL_CERT_FILE"),
            "{}",
            ran.stderr
        );
        assert!(!ran.stderr.contains(" s\n"), "waited: {}", ran.stderr);
    }
    // A name that this computer does not know, as in a network that lets the proxy alone out.
    let mut proxy = Server::new(&region, &[&server.1.to_string(), "proxy"]);
    let through = format!("SSL_CERT_FILE=cert.pem HTTPS_PROXY=http://127.0.0.1:{}", proxy.1);
    region.sh(&format!("unset AWS_ENDPOINT_URL; {through} ec2-ls -q -n --deployment d"), "").ok();
    let mut asked = String::new();
    proxy.2.read_line(&mut asked).unwrap();
    assert_eq!(asked.trim(), "CONNECT ec2.eu-central-1.amazonaws.com:443 HTTP/1.1");
    // The local cloud is reached without the user's proxy, and what else is stays so.
    let env = format!("eval \"$({}/scripts/local-cloud --port {} env)\"", project().display(), region.port);
    for (theirs, all) in
        [("", "127.0.0.1"), ("no_proxy=a.org", "127.0.0.1,a.org"), ("NO_PROXY=b.org", "127.0.0.1,b.org")]
    {
        let away = format!("unset no_proxy NO_PROXY; export http_proxy=http://127.0.0.1:1 {theirs}; {env}");
        let ran = region.sh(&format!("{away}; ec2-ls -q -n --deployment d && echo $no_proxy $NO_PROXY"), "").ok();
        assert_eq!(ran.stdout, format!("{all} {all}\n"));
    }
}
