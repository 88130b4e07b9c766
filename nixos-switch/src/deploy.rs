//! One switch, from the first session to its end, over as many connections as it takes.

use crate::answers::{Answers, Reader};
use crate::secrets::{Secrets, hex};
use crate::{Action, Args, script};
use anyhow::Result;
use machine_record::{Activation, Closure, Failure, Instance, Kind, Record, StorePath, Wish as Wishes, log};
use machine_ssh::{Address, Session};
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};

/// How often a session is begun anew that was lost before it had done anything.
const STARTS: usize = 3;

/// Bytes of a command that fit into one packet of SSH, with what is around them.
const LONGEST_COMMAND: usize = 32_000;

/// What to do about a machine that is slow to write its boot entry.
pub const GOES_ON: &str =
    "the machine goes on by itself: --status shows what boots, and the same command again follows it";

/// What is to be done on one machine.
pub struct Wish<'a> {
    pub args: &'a Args,
    pub machine: String,
    pub action: Action,
    /// None where it is for the machine to say: with `--rollback`
    pub toplevel: Option<StorePath>,
    pub region: Option<String>,
    pub instance: Option<String>,
    /// None where nothing is said about secrets: they are left alone
    pub secrets: Option<Secrets>,
    expect: Option<StorePath>,
    machine_id: Option<String>,
    address: Address,
    proof: Address,
}

impl<'a> Wish<'a> {
    /// Reads flags and record; the record's own wish wins.
    pub fn of(args: &'a Args, record: &Record) -> Result<Wish<'a>> {
        let wishes: Wishes = record.section()?.unwrap_or_default();
        let last: Option<Activation> = record.section()?;
        let address = Address::of(record, &args.login)?;
        let mut proof = address.clone();
        if let Some((host, port)) = &args.confirm_via {
            (proof.host, proof.port) = (host.clone(), *port);
        }
        let closure: Option<Closure> = record.section()?;
        let toplevel = match closure {
            _ if args.rollback => None,
            Some(closure) => Some(closure.toplevel),
            None if args.status || args.list_generations => None,
            None => Some(record.require::<Closure>()?.toplevel),
        };
        Ok(Wish {
            args,
            machine: record.name(),
            action: wishes.action.as_deref().map(crate::action).transpose()?.unwrap_or(args.action),
            toplevel,
            region: record.string("region")?,
            instance: record.section::<Instance>()?.map(|instance| instance.id),
            machine_id: last.as_ref().and_then(|last| last.machine_id.clone()),
            // The flag wins here: it is how one says that another system may be replaced.
            secrets: Secrets::of(args, record)?,
            expect: args.expect_current.clone().or(last.and_then(|last| last.current)),
            address,
            proof,
        })
    }

    /// The wished system, which only the machine may know.
    pub fn toplevel_in<'b>(&'b self, answers: &'b Answers) -> Option<&'b str> {
        self.toplevel.as_ref().map(|path| path.as_str()).or(answers.one("toplevel"))
    }

    /// The assignments that tell the script what to do.
    fn values(&self, mode: &str, token: &str, offset: usize) -> Vec<(&'static str, String)> {
        let args = self.args;
        let text = |path: &Option<StorePath>| path.as_ref().map_or(String::new(), |path| path.to_string());
        let seconds = |time: Duration| time.as_secs().max(1).to_string();
        let back_to = match (&args.to, args.rollback) {
            (Some(to), _) => to.clone(),
            (None, rollback) => if rollback { "previous" } else { "" }.into(),
        };
        let mut values = vec![
            ("mode", mode.into()),
            ("token", token.into()),
            ("offset", offset.to_string()),
            ("instance", self.instance.clone().unwrap_or_default()),
            ("machine_id", self.machine_id.clone().unwrap_or_default()),
            ("action", self.action.word().into()),
            ("toplevel", text(&self.toplevel)),
            ("reboot", args.reboot.word().into()),
            ("reboot_unprotected", u8::from(args.reboot_unprotected).to_string()),
            ("back_to", back_to),
            ("generation", String::new()),
            ("specialisation", args.specialisation.clone().unwrap_or_default()),
            ("expect", text(&self.expect)),
            ("who", whoami()),
            ("lock_timeout", seconds(args.lock_timeout)),
            ("activation_timeout", seconds(args.activation_timeout)),
            ("confirm_timeout", seconds(args.confirm_timeout)),
            ("return_timeout", seconds(args.return_timeout)),
            ("health_timeout", seconds(args.health_timeout)),
            ("allow_failed_units", u8::from(args.allow_failed_units).to_string()),
            ("keep_generations", args.keep_generations.map_or(String::new(), |count| count.to_string())),
            ("keep_failed", u8::from(args.no_auto_rollback).to_string()),
        ];
        values.extend(Secrets::values(self.secrets.as_ref()));
        // One that is under way is joined only if it is to prove and do the same: who confirms it does so for all.
        let health: Vec<String> = args.health.iter().map(|check| machine_ssh::quote(check)).collect();
        let health = health.join(" ");
        values.push(("asked", hex(&Sha256::digest(format!("{} {health}", args.reboot.word())))));
        if ["start", "confirm", "rebooted"].contains(&mode) {
            values.push(("health", health));
        }
        values
    }
}

/// Who deploys, for those who find the machine taken.
fn whoami() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "somebody".into());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let line = format!("{user}@{} (process {})", host.trim(), std::process::id());
    line.replace(|c: char| c.is_control() || c == '\'', "?")
}

/// How a deployment ended, as far as it is known.
pub struct End {
    pub answers: Answers,
    pub seconds: f64,
    /// True if the machine has booted since it was first looked at
    pub booted: bool,
    /// True if the machine was, or may have been, begun with
    pub begun: bool,
    pub failure: Option<anyhow::Error>,
}

/// What became of one session.
enum Asked {
    /// It came to its end
    Stage(String),
    /// The machine refused, for good
    Refused(Failure),
    /// The connection did not come about, or was lost
    Lost(anyhow::Error),
}

/// Switches the machine, and stays with it until it is known which system it keeps.
pub fn deploy(wish: &Wish) -> End {
    let start = Instant::now();
    let mut run = Run::new(wish, true);
    let failure = run.follow_to_the_end().err();
    End {
        seconds: start.elapsed().as_secs_f64(),
        booted: run.has_booted(),
        begun: run.answers.one("previous").is_some(),
        answers: run.answers,
        failure,
    }
}

/// The machine answers, and does not get on.
fn too_long(stage: &str, time: Duration) -> Failure {
    let what = match stage {
        "committing" => "writing the boot entry",
        "rebooting" | "booting" => "about to reboot",
        "setup" => "setting up the switch",
        _ => "ending the switch",
    };
    let failure =
        Failure::new(Kind::Timeout, format!("the machine answers, and is still {what} after {} s", time.as_secs()));
    if stage == "committing" { failure.hint(GOES_ON) } else { failure }
}

/// Asks one thing and does no more: for what changes nothing.
pub fn ask_once(wish: &Wish, mode: &str) -> Result<Answers> {
    let mut run = Run::new(wish, false);
    match run.ask(mode, &wish.address) {
        Asked::Stage(_) => Ok(run.answers),
        Asked::Refused(failure) => Err(failure.into()),
        Asked::Lost(error) => Err(error),
    }
}

struct Run<'a> {
    wish: &'a Wish<'a>,
    token: String,
    offset: usize,
    answers: Answers,
    /// The boot id at the first look
    boot: Option<String>,
    /// Whether the machine is to change at all
    changes: bool,
    /// What to say where Ctrl-C ends us, once the machine may go on by itself
    goes_on: Option<log::GoesOn>,
}

impl<'a> Run<'a> {
    fn new(wish: &'a Wish<'a>, changes: bool) -> Run<'a> {
        let token = script::token(&wish.machine);
        Run { wish, token, offset: 0, answers: Answers::default(), boot: None, changes, goes_on: None }
    }

    fn follow_to_the_end(&mut self) -> Result<()> {
        let mut stage = String::from("gone");
        for _ in 0..STARTS {
            stage = match self.ask("start", &self.wish.address) {
                Asked::Stage(stage) => stage,
                Asked::Refused(failure) => return Err(failure.into()),
                // Before the first answer there is nothing to stay with.
                Asked::Lost(error) if self.boot.is_none() => return Err(error),
                Asked::Lost(error) => {
                    self.say(&format!("{error:#}; the machine goes on by itself, looking again"));
                    self.ask_again("attach")?
                }
            };
            // Lost before anything was set up: as if it had not been asked.
            if stage != "gone" || self.has_booted() {
                break;
            }
        }
        let boot = |answers: &Answers| answers.one("boot-id").map(String::from);
        let mut since = (Instant::now(), stage.clone(), boot(&self.answers));
        loop {
            let boot = boot(&self.answers);
            if (&stage, &boot) != (&since.1, &since.2) {
                since = (Instant::now(), stage.clone(), boot);
            } else if since.0.elapsed() > self.patience(&stage) {
                return Err(too_long(&stage, since.0.elapsed()).into());
            }
            stage = match stage.as_str() {
                "window" if self.answers.one("unconfirmed").is_some() => {
                    std::thread::sleep(Duration::from_secs(2));
                    self.ask_again("attach")?
                }
                "window" => self.confirm()?,
                // Whoever could log in may have died before it had said so.
                "restored" | "returned" => self.ask_again("give-back")?,
                "booting" | "rebooting" | "setup" | "committing" => self.ask_again("attach")?,
                // An unprotected reboot: nothing of the deployment has outlived it.
                "gone" if self.has_booted() && self.wish.args.reboot_unprotected && self.runs_the_wished() => {
                    self.ask_again("rebooted")?
                }
                _ => return Ok(()),
            };
        }
    }

    /// Proves that a new login works, for as long as the machine waits for it.
    fn confirm(&mut self) -> Result<String> {
        let proof = &self.wish.proof;
        self.say(&format!("active, not yet the one that boots; logging in anew at {} port {}", proof.host, proof.port));
        let end = Instant::now() + self.wish.args.confirm_timeout;
        loop {
            let error = match self.ask("confirm", proof) {
                Asked::Stage(stage) => return Ok(stage),
                // Such as a disk that has no room for the secrets.
                Asked::Refused(failure) => {
                    self.say(&format!("not confirmed: {failure}"));
                    self.say("the machine goes back to the previous system by itself");
                    self.answers.note("unconfirmed", &failure.message);
                    return self.ask_again("attach");
                }
                Asked::Lost(error) => error,
            };
            // Another host key does not become the right one.
            if Instant::now() >= end || Failure::of(&error).kind == Kind::HostKey {
                self.say(&format!("no new login: {error:#}; the machine goes back to the previous system by itself"));
                self.answers.note("unconfirmed", &format!("{error:#}"));
                return self.ask_again("attach");
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Asks until the machine answers, for as long as it may need to come back by itself.
    fn ask_again(&mut self, mode: &str) -> Result<String> {
        let end = Instant::now() + self.patience("");
        let mut told = String::new();
        let (address, proof) = (&self.wish.address, &self.wish.proof);
        // The new system may be the one that runs, and not to be had at the old address.
        let moved = (&proof.host, proof.port) != (&address.host, address.port);
        loop {
            let mut asked = self.ask(mode, address);
            if moved && let Asked::Lost(error) = asked {
                log::detail(&self.wish.machine, &format!("waiting: {error:#}"));
                asked = match self.ask(mode, proof) {
                    Asked::Lost(_) => Asked::Lost(error),
                    answered => answered,
                };
            }
            let error = match asked {
                Asked::Stage(stage) => return Ok(stage),
                Asked::Refused(failure) => return Err(failure.into()),
                Asked::Lost(error) => error,
            };
            if Instant::now() >= end {
                return Err(error.context("what became of the machine is not known"));
            }
            let text = format!("{error:#}");
            if text != told {
                log::detail(&self.wish.machine, &format!("waiting: {text}"));
                told = text;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// How long the machine may need to come back by itself, or to get on from a stage.
    fn patience(&self, stage: &str) -> Duration {
        let args = self.wish.args;
        if stage == "rebooting" {
            return args.reboot_timeout;
        }
        args.activation_timeout + args.confirm_timeout + args.return_timeout + args.reboot_timeout
    }

    fn ask(&mut self, mode: &str, address: &Address) -> Asked {
        let mut reader = Reader::new(&self.wish.machine, self.offset);
        let values = self.wish.values(mode, &self.token, self.offset);
        let heard = self.hear(&mut reader, address, &script::session(&values));
        self.offset = reader.offset;
        let answers = std::mem::take(&mut reader.answers);
        drop(reader);
        let (stage, refusal) = (answers.stage().map(str::to_string), answers.refusal());
        let secrets = self.wish.secrets.as_ref();
        let named = answers.one("secret").and_then(|number| secrets?.name(number));
        // Another client's deployment of the same system is ours as well.
        if let Some(token) = answers.one("token") {
            self.token = token.into();
        }
        if self.boot.is_none() {
            self.boot = answers.one("boot-id").map(str::to_string);
        }
        self.answers.extend(answers);
        match (heard, stage, refusal) {
            (_, _, Some(mut failure)) => {
                if let Some(name) = named {
                    failure.message += &format!(": {name:?}");
                }
                Asked::Refused(failure)
            }
            (_, Some(stage), None) => Asked::Stage(stage),
            (Err(error), None, None) => Asked::Lost(error),
            (Ok(words), None, None) => {
                let words = if words.trim().is_empty() { "it said nothing" } else { words.trim() };
                let text = format!("the machine's shell ended without an answer: {words}");
                let hint = "run nixos-switch again: it finds out what became of the switch";
                Asked::Lost(Failure::new(Kind::Internal, text).hint(hint).into())
            }
        }
    }

    fn has_booted(&self) -> bool {
        self.boot.as_deref() != self.answers.one("boot-id")
    }

    fn runs_the_wished(&self) -> bool {
        self.wish.toplevel_in(&self.answers).is_some_and(|path| self.answers.one("running") == Some(path))
    }

    fn say(&self, text: &str) {
        log::event(&self.wish.machine, text);
    }

    /// Runs the script on the machine and gives what it wrote on stderr.
    fn hear(&mut self, reader: &mut Reader, address: &Address, script: &str) -> Result<String> {
        let wish = self.wish;
        let session = Session::connect(address, wish.args.connect_timeout)?;
        let packed = script::pack(script)?;
        let mut secrets = wish.secrets.as_ref();
        let mut command = script::whole_command(&packed);
        // Digests of secrets are for nobody else's eyes.
        let within = secrets.is_none() && !address.elevation.is_needed() && command.len() < LONGEST_COMMAND;
        if !within {
            command = script::command(&packed);
        }
        let mut channel = session.open(&command)?;
        if !within {
            channel.write_all(&packed)?;
        }
        if secrets.is_none() {
            channel.finish_input()?;
        }
        let mut begun = self.answers.one("previous").is_some();
        if self.changes && self.goes_on.is_none() {
            self.goes_on = Some(self.goes_on("what may have been begun"));
        }
        let mut piece = [0; 16 * 1024];
        loop {
            match channel.read_some(&mut piece)? {
                0 => break,
                count => reader.take(&piece[..count]),
            }
            if !begun && reader.answers.one("previous").is_some() {
                begun = true;
                // The one before takes the machine's name along where it ends.
                self.goes_on = None;
                self.goes_on = Some(self.goes_on("what was begun"));
            }
            if let Some(numbers) = reader.answers.one("send")
                && let Some(secrets) = secrets.take()
            {
                log::event(&address.machine, &format!("sending secrets: {}", secrets.names(numbers)));
                let sent = secrets.contents(numbers).try_for_each(|content| channel.write_all(content));
                if let Err(error) = sent {
                    // The machine may have said why it takes no more.
                    channel.last_words();
                    while let Ok(Some(count @ 1..)) = channel.try_read(&mut piece) {
                        reader.take(&piece[..count]);
                    }
                    return Err(error);
                }
                channel.finish_input()?;
            }
        }
        let words = String::from_utf8_lossy(&channel.take_stderr()).into_owned();
        for line in words.lines() {
            log::detail(&address.machine, line);
        }
        Ok(words)
    }

    fn goes_on(&self, what: &str) -> log::GoesOn {
        let mut text = format!("interrupted: {what} on the machine goes on by itself");
        if self.wish.action != Action::Boot {
            let seconds = self.wish.args.confirm_timeout.as_secs();
            text += &format!(", and is undone {seconds} s after the activation or the reboot unless it is confirmed");
        }
        let hint = "the same command again follows it to its end; --status shows what runs and boots";
        log::goes_on(&self.wish.machine, &text, hint)
    }
}
