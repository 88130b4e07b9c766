//! A network of the test's own between nix-push and a machine: it counts bytes, cuts, spoils, slows and delays.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// What is done to a connection, by the bytes that went to the machine.
#[derive(Clone, Copy, Default)]
pub struct Rule {
    pub cut_after: Option<u64>,
    pub spoil_at: Option<u64>,
    /// Bytes a second to the machine
    pub rate: Option<u64>,
    /// How long everything is under way, in each direction
    pub delay: Option<Duration>,
}

/// A port of 127.0.0.1 that leads to the machine.
pub struct Relay {
    pub port: u16,
    to_machine: Arc<AtomicU64>,
}

impl Relay {
    pub fn new(machine: String, rule: Rule) -> Relay {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let to_machine = Arc::new(AtomicU64::new(0));
        let shared = to_machine.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&machine) else { continue };
                for end in [&client, &server] {
                    end.set_nodelay(true).unwrap();
                }
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let sent = shared.clone();
                std::thread::spawn(move || pump(from, to, true, rule, &sent));
                let sent = shared.clone();
                std::thread::spawn(move || pump(server, client, false, rule, &sent));
            }
        });
        Relay { port, to_machine }
    }

    /// Bytes that went to the machine.
    pub fn to_machine(&self) -> u64 {
        self.to_machine.load(Ordering::SeqCst)
    }
}

fn pump(mut from: TcpStream, to: TcpStream, to_machine: bool, rule: Rule, sent: &AtomicU64) {
    // Without a delay, what the machine does not take stays with the other side.
    let (send, under_way) = sync_channel(if rule.delay.is_some() { 4096 } else { 1 });
    let ahead = from.try_clone().unwrap();
    std::thread::spawn(move || deliver(&under_way, to, &ahead));
    let mut piece = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        let bytes = &mut piece[..count];
        if to_machine {
            let before = sent.load(Ordering::SeqCst);
            let end = before + count as u64;
            if let Some(at) = rule.spoil_at.filter(|at| (before..end).contains(at)) {
                bytes[(at - before) as usize] ^= 1;
            }
            if rule.cut_after.is_some_and(|most| end > most) {
                break;
            }
            if let Some(rate) = rule.rate {
                std::thread::sleep(Duration::from_secs_f64(count as f64 / rate as f64));
            }
            sent.store(end, Ordering::SeqCst);
        }
        if send.send((Instant::now() + rule.delay.unwrap_or_default(), bytes.to_vec())).is_err() {
            break;
        }
    }
}

/// Lets out what is under way when its time has come, and ends both ends with it.
fn deliver(under_way: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream, from: &TcpStream) {
    for (due, bytes) in under_way {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
