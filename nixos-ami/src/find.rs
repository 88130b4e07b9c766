//! Finds an image for each machine of the stream: at once from table or catalogue, side by side from EC2.

use crate::ec2::{Ec2, OWNERS, profile_region};
use crate::images::{Image, LATEST, Question, candidates, explain, is_deprecated, is_release, nearest};
use crate::{Args, Source, TOOL, catalogue, table};
use anyhow::Result;
use aws_sdk_ec2::primitives::{DateTime, DateTimeFormat};
use machine_record::{Ami, Failure, Job, Jobs, Kind, Record, log};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

/// Warned of when an image is to be withdrawn within this time.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// How many machines are taken from the stream at a time.
const BATCH: usize = 4096;

/// Works through the stream.
///
/// What needs no network is written before the next record is read; the rest goes to a thread of
/// its own, started when the first machine needs it, so that the table alone costs nothing.
pub fn all(args: Args, jobs: Jobs) -> Result<()> {
    let owners = match args.owner.as_slice() {
        [] => OWNERS.map(String::from).to_vec(),
        owners => owners.to_vec(),
    };
    let read = |file| catalogue::read(file, &owners).map_err(|error| Failure::of(&error));
    let catalogue = args.catalogue.as_deref().map(read);
    let finder = Arc::new(Finder {
        catalogue,
        ec2: Ec2::new(owners, args.timeout, args.stream.jobs.unwrap_or(TOOL.jobs).into()),
        args,
        now: log::now(),
    });
    std::thread::scope(|scope| {
        let mut network: Option<mpsc::UnboundedSender<Job>> = None;
        while let Some(batch) = jobs.take(BATCH) {
            for job in batch {
                let mut left = finder.offline(job);
                while let Some(job) = left.take() {
                    let sender = network.get_or_insert_with(|| {
                        let (send, arrived) = mpsc::unbounded_channel();
                        let finder = finder.clone();
                        scope.spawn(move || finder.online(arrived));
                        send
                    });
                    if let Err(mpsc::error::SendError(job)) = sender.send(job) {
                        job.finish(Err(Failure::new(Kind::Internal, "cannot start to ask EC2").into()));
                    }
                }
            }
        }
    });
    Ok(())
}

struct Finder {
    args: Args,
    /// What cannot be read fails each machine, so that none is lost
    catalogue: Option<Result<Vec<Image>, Failure>>,
    ec2: Ec2,
    now: String,
}

impl Finder {
    /// Finishes a machine that needs no network; gives back one that does.
    fn offline(&self, job: Job) -> Option<Job> {
        let question = match self.question(&job.record) {
            Ok(Some(question)) => question,
            Ok(None) => return Some(job),
            Err(failure) => {
                job.finish(Err(failure.into()));
                return None;
            }
        };
        if self.args.verify || self.source(&question) == Source::Ec2 {
            return Some(job);
        }
        let found = self.local(&question).and_then(|images| self.choose(&images, &question, ""));
        self.finish(job, &question, found);
        None
    }

    /// Finishes the machines that need EC2, side by side.
    fn online(self: Arc<Self>, mut arrived: mpsc::UnboundedReceiver<Job>) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let mut tasks = tokio::task::JoinSet::new();
            let mut region = None;
            while let Some(job) = arrived.recv().await {
                let question = match self.question(&job.record) {
                    Ok(Some(question)) => Ok(question),
                    Ok(None) => {
                        if region.is_none() {
                            region = Some(profile_region().await);
                        }
                        self.question_in(&job.record, region.clone().flatten())
                    }
                    Err(failure) => Err(failure),
                };
                let finder = self.clone();
                tasks.spawn_local(async move {
                    match question {
                        Ok(question) => {
                            let found = finder.remote(&question, &job.record.name()).await;
                            finder.finish(job, &question, found);
                        }
                        Err(failure) => job.finish(Err(failure.into())),
                    }
                });
            }
            while tasks.join_next().await.is_some() {}
        });
    }

    /// What is looked for; `None` if only the AWS profile can name the region.
    fn question(&self, record: &Record) -> Result<Option<Question>, Failure> {
        let region = record.string("region")?.or_else(|| self.args.region.clone());
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let region = region.or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
        match region {
            None => Ok(None),
            region => self.question_in(record, region).map(Some),
        }
    }

    fn question_in(&self, record: &Record, region: Option<String>) -> Result<Question, Failure> {
        let missing = |what: &str, hint: &str| Failure::new(Kind::Input, format!("no {what}")).hint(hint);
        let release = record.string("release")?.or_else(|| self.args.release.clone());
        let region = region.ok_or_else(|| missing("region", "name one with --region, or set AWS_REGION"))?;
        // It becomes part of a host name.
        if region.is_empty() || !region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return Err(Failure::new(Kind::Input, format!("not the name of a region: {region:?}"))
                .hint("regions are called as in eu-central-1"));
        }
        Ok(Question {
            release: release.ok_or_else(|| missing("release", "name one with --release, such as 25.11"))?,
            region,
            system: record
                .string("system")?
                .or_else(|| self.args.system.clone())
                .unwrap_or_else(|| "x86_64-linux".into()),
            kind: self.args.kind.clone(),
        })
    }

    fn source(&self, question: &Question) -> Source {
        self.args.source.unwrap_or(if table::has(&question.release) { Source::Table } else { Source::Ec2 })
    }

    /// Images of the table or the catalogue that may fit.
    fn local(&self, question: &Question) -> Result<Vec<Image>, Failure> {
        match &self.catalogue {
            Some(images) => images.clone(),
            None if question.release == LATEST => {
                Err(Failure::new(Kind::NotFound, "the table ends with 23.11 and cannot tell the latest release")
                    .hint("say --source ec2 or --catalogue FILE"))
            }
            None => table::of_release(&question.release).map_err(|error| Failure::of(&error)),
        }
    }

    /// The images that answer, first the one to take; never empty.
    fn choose(&self, images: &[Image], question: &Question, place: &str) -> Result<Vec<Ami>, Failure> {
        let found = candidates(images, question, &self.now);
        if !found.is_empty() {
            return Ok(found.into_iter().map(|image| image.ami.clone()).collect());
        }
        match (&self.args.catalogue, place) {
            (Some(file), _) => Err(explain(images, question, &file.display().to_string())),
            (None, "") => {
                let all = table::all().map_err(|error| Failure::of(&error))?;
                let hint = if table::has(&question.release) {
                    "the table is of the past: for newer regions and images say --source ec2"
                } else {
                    "the table ends with 23.11: for newer releases say --source ec2"
                };
                Err(explain(&all, question, "the table").hint(hint))
            }
            (None, place) => Err(explain(images, question, place)),
        }
    }

    async fn remote(&self, question: &Question, machine: &str) -> Result<Vec<Ami>, Failure> {
        let found = if self.source(question) == Source::Ec2 {
            if !is_release(&question.release) {
                let all = table::all().map_err(|error| Failure::of(&error))?;
                return Err(explain(&all, question, "the table")
                    .hint("releases are called as in 25.11; those after 23.11 are asked for from EC2"));
            }
            log::event(machine, &format!("asking EC2 for NixOS {} in {}", question.release, question.region));
            let _step = log::step(machine, "asking EC2");
            let images = self.ec2.images(&question.region, &question.release).await;
            let images = images.map_err(|failure| self.or_from_table(failure, question))?;
            if candidates(&images, question, &self.now).is_empty() {
                return Err(self.ec2.explain(question).await);
            }
            self.choose(&images, question, "EC2")?
        } else {
            self.choose(&self.local(question)?, question, "")?
        };
        if !self.args.verify {
            return Ok(found);
        }
        let _step = log::step(machine, "asking EC2");
        let mut living = Vec::new();
        for ami in &found {
            match self.ec2.living(ami).await? {
                Some(ami) => living.push(ami),
                None if self.args.list => log::warning(machine, &format!("{} is gone", ami.id)),
                None => return Err(self.gone(ami, question).await),
            }
            if !self.args.list {
                break;
            }
        }
        match found.first() {
            Some(ami) if living.is_empty() => Err(self.gone(ami, question).await),
            _ => Ok(living),
        }
    }

    /// Who mistyped a release of the table is sent to EC2 without a wish to go there.
    fn or_from_table(&self, failure: Failure, question: &Question) -> Failure {
        if self.args.source.is_some() || !matches!(failure.kind, Kind::Denied | Kind::Unreachable) {
            return failure;
        }
        let known = table::all().unwrap_or_default();
        let known = nearest(known.iter().map(|image| image.ami.release.as_str()).collect(), &question.release);
        let near = known.into_iter().take(3).collect::<Vec<_>>().join(", ");
        let hint = failure.hint.clone().map(|hint| hint + "; ").unwrap_or_default();
        failure.hint(format!("{hint}without EC2 there are the releases of the table, such as {near}"))
    }

    async fn gone(&self, ami: &Ami, question: &Question) -> Failure {
        let message = format!("{} (NixOS {}) does not exist any more in {}", ami.id, ami.release, ami.region);
        let newest = Question { release: LATEST.into(), ..question.clone() };
        let hint = match self.ec2.images(&question.region, LATEST).await {
            Ok(images) if !images.is_empty() => {
                let absent = Question { release: String::new(), ..newest };
                let known = explain(&images, &absent, "").message;
                format!("releases that live: {}", known.split("there are ").last().unwrap_or_default())
            }
            _ => "take a newer release".into(),
        };
        Failure::new(Kind::NotFound, message).hint(hint)
    }

    /// Writes the image, or each of them, into the machine's record.
    fn finish(&self, mut job: Job, question: &Question, found: Result<Vec<Ami>, Failure>) {
        let found = match found {
            Ok(found) => found,
            Err(failure) => return job.finish(Err(failure.into())),
        };
        let machine = job.record.name();
        if self.args.list {
            for ami in found {
                let mut job = job.another(job.record.clone());
                let result = add(&mut job.record, question, &ami);
                job.finish(result);
            }
            return job.discard();
        }
        let Some(ami) = found.first() else {
            return job.finish(Err(Failure::new(Kind::Internal, "no image").into()));
        };
        log::event(&machine, &format!("NixOS {} in {} is {} (from {})", ami.release, ami.region, ami.id, ami.source));
        self.warn(&machine, ami);
        let result = add(&mut job.record, question, ami);
        job.finish(result);
    }

    fn warn(&self, machine: &str, ami: &Ami) {
        let Some(time) = ami.deprecation_time.as_deref() else { return };
        if is_deprecated(ami, &self.now) {
            log::warning(machine, &format!("{} is deprecated since {time}: it will be deleted", ami.id));
        } else if DateTime::from_str(time, DateTimeFormat::DateTime)
            .is_ok_and(|time| SystemTime::try_from(time).is_ok_and(|time| time < SystemTime::now() + SOON))
        {
            log::warning(machine, &format!("{} will be deprecated at {time}, and deleted soon after", ami.id));
        }
    }
}

fn add(record: &mut Record, question: &Question, ami: &Ami) -> Result<()> {
    for (member, value) in [("region", &question.region), ("system", &question.system), ("release", &question.release)]
    {
        if record.text(member).is_none() {
            record.set(member, value)?;
        }
    }
    Ok(record.put(ami)?)
}
