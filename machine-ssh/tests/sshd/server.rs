//! A sshd on the loopback.

use machine_record::Failure;
use machine_ssh::{Address, Client, Elevation};
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// More than any of this takes on a busy computer.
pub const SECONDS: Duration = Duration::from_secs(30);

/// A sshd of its own, with keys of its own; it ends with the test.
pub struct Sshd {
    process: Child,
    pub folder: PathBuf,
    pub port: u16,
}

impl Sshd {
    pub fn start(test: &str) -> Sshd {
        let folder = std::env::temp_dir().join(format!("machine-ssh-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for (file, kind) in [("host", "ed25519"), ("host_rsa", "rsa"), ("user", "ed25519"), ("stranger", "ed25519")] {
            let status = Command::new("ssh-keygen")
                .args(["-q", "-N", "", "-t", kind, "-f"])
                .arg(folder.join(file))
                .status()
                .expect("ssh-keygen (install openssh-client)");
            assert!(status.success());
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = folder.display();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {at}/host\nHostKey {at}/host_rsa\nPidFile none\nStrictModes no\n\
             AuthorizedKeysFile {at}/user.pub\nPermitRootLogin prohibit-password\nUsePAM no\n"
        );
        fs::write(folder.join("config"), config).unwrap();
        fs::create_dir_all("/run/sshd").expect("/run/sshd (these tests need root)");
        let process = run(&folder, port);
        Sshd { process, folder, port }
    }

    pub fn public_key(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file).with_extension("pub")).unwrap()
    }

    pub fn address(&self) -> Address {
        Address {
            machine: "test".into(),
            host: "127.0.0.1".into(),
            port: self.port,
            user: "root".into(),
            host_keys: vec![self.public_key("host")],
            private_key: Some(self.folder.join("user")),
            public_key: None,
            identities: Vec::new(),
            identities_only: false,
            jump: None,
            client: Client::Libssh2,
            elevation: Elevation::None,
        }
    }

    /// OpenSSH's client with this configuration in place of the user's.
    pub fn open_ssh(&self, configuration: &str) -> Client {
        let config = self.folder.join("ssh_config");
        fs::write(&config, configuration).unwrap();
        let script = format!("#!/bin/sh\nexec ssh -F {} \"$@\"\n", config.display());
        Client::OpenSsh(self.write_program("ssh", &script))
    }

    pub fn write_program(&self, name: &str, script: &str) -> PathBuf {
        let (program, new) = (self.folder.join(name), self.folder.join(format!("{name}.new")));
        // Written elsewhere and moved: another thread's child may hold a file that is written open.
        fs::write(&new, script).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, &program).unwrap();
        program
    }

    /// The same address for each of the clients.
    pub fn addresses(&self) -> [Address; 2] {
        [self.address(), Address { client: self.open_ssh(""), ..self.address() }]
    }

    /// Ends sshd and starts it again with more configuration in front.
    pub fn restart(&mut self, first: &str) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let config = self.folder.join("config");
        let old = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("{first}\n{old}")).unwrap();
        self.process = run(&self.folder, self.port);
    }
}

/// Runs sshd until it answers. What the one before has begun may hold its port for a moment: then it ends at once.
fn run(folder: &Path, port: u16) -> Child {
    let began = Instant::now();
    loop {
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(folder.join("config")).stderr(Stdio::null());
        let mut process = command.spawn().expect("sshd (install openssh-server)");
        while process.try_wait().unwrap().is_none() {
            if answers(port).is_ok() {
                return process;
            }
            assert!(began.elapsed() < SECONDS, "sshd does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn answers(port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.read_exact(&mut [0; 4])
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub fn failure<T>(result: anyhow::Result<T>) -> Failure {
    Failure::of(&result.err().expect("a failure"))
}
