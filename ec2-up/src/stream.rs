//! The stream of machines on one thread: many are waited for at the same time.

use anyhow::{Context, Result};
use machine_record::{Job, StreamArgs, Tool};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::mpsc as tickets;
use tokio::sync::mpsc;

/// Runs `each` for the machines of the stream, as many side by side as `--jobs` allows, then `last`.
pub fn run<C: 'static, F: Future<Output = ()> + 'static>(
    tool: Tool,
    args: &StreamArgs,
    context: C,
    each: impl Fn(Rc<C>, Job) -> F,
    last: impl AsyncFnOnce(&C) -> Result<()>,
) -> ExitCode {
    let at_once = args.jobs.unwrap_or(tool.jobs).max(1);
    machine_record::run(tool, args, |jobs| {
        let (send, mut arrived) = mpsc::unbounded_channel();
        // A machine is taken from the stream only when its turn has come, so that none is begun
        // after stdout was closed.
        let (free, turns) = tickets::channel();
        for _ in 0..at_once {
            let _ = free.send(());
        }
        std::thread::spawn(move || {
            while turns.recv().is_ok() {
                let Some(job) = jobs.take(1).and_then(|mut jobs| jobs.pop()) else { return };
                if send.send(job).is_err() {
                    return;
                }
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let context = Rc::new(context);
            let mut tasks = tokio::task::JoinSet::new();
            while let Some(job) = arrived.recv().await {
                let (work, free) = (each(context.clone(), job), free.clone());
                tasks.spawn_local(async move {
                    work.await;
                    let _ = free.send(());
                });
                // Finished ones are forgotten as the stream goes on.
                while tasks.try_join_next().is_some() {}
            }
            while tasks.join_next().await.is_some() {}
            last(&context).await
        })
    })
}
