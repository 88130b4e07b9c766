//! One call for the questions of many machines.

use machine_record::{Failure, Kind};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// EC2 takes up to 200 values in all filters of a call together ("The maximum number of filter values specified on a single
/// call is 200"): beside these there are at most a deployment and five states.
pub const MOST: usize = 190;

/// Collects questions until one is due, and asks all of them together.
pub struct Batcher<V> {
    waiting: RefCell<Vec<Waiting<V>>>,
    wake: Notify,
}

struct Waiting<V> {
    key: String,
    asked: Instant,
    due: Instant,
    answer: oneshot::Sender<Result<Vec<V>, Failure>>,
}

impl<V: Clone + 'static> Batcher<V> {
    /// Starts one; `ask` gets up to 190 keys and answers with what it found, each with its key.
    pub fn start(ask: impl AsyncFn(Vec<String>) -> Result<Vec<(String, V)>, Failure> + 'static) -> Rc<Self> {
        let batcher = Rc::new(Batcher { waiting: RefCell::default(), wake: Notify::new() });
        let worker = batcher.clone();
        tokio::task::spawn_local(async move {
            loop {
                worker.turn(&ask).await;
            }
        });
        batcher
    }

    /// Finds what there is for a key, within about `patience`.
    ///
    /// The longer a machine can wait, the more others share the call.
    pub async fn of(&self, key: &str, patience: Duration) -> Result<Vec<V>, Failure> {
        let (answer, found) = oneshot::channel();
        let asked = Instant::now();
        self.waiting.borrow_mut().push(Waiting { key: key.into(), asked, due: asked + patience, answer });
        self.wake.notify_one();
        found.await.unwrap_or_else(|_| Err(Failure::new(Kind::Internal, "a question to EC2 was lost")))
    }

    async fn turn(&self, ask: &impl AsyncFn(Vec<String>) -> Result<Vec<(String, V)>, Failure>) {
        let Some(due) = self.waiting.borrow().iter().map(|waiting| waiting.due).min() else {
            return self.wake.notified().await;
        };
        let now = Instant::now();
        if now < due {
            // A new question may be more urgent.
            let _ = tokio::time::timeout_at(due, self.wake.notified()).await;
            return;
        }
        // With those that are due go those that have waited for half of their time, so that machines
        // which poll fall into step.
        let ripe = |waiting: &mut Waiting<V>| now >= waiting.asked + (waiting.due - waiting.asked) / 2;
        let mut ripe: Vec<Waiting<V>> = self.waiting.borrow_mut().extract_if(.., ripe).collect();
        while !ripe.is_empty() {
            let part: Vec<Waiting<V>> = ripe.drain(..ripe.len().min(MOST)).collect();
            let mut keys: Vec<String> = part.iter().map(|waiting| waiting.key.clone()).collect();
            keys.sort();
            keys.dedup();
            let found = ask(keys).await;
            for waiting in part {
                let answer = found.as_ref().map_err(Failure::clone).map(|found| {
                    found.iter().filter(|(key, _)| *key == waiting.key).map(|(_, value)| value.clone()).collect()
                });
                // Who asked may have given up.
                let _ = waiting.answer.send(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn run<F: Future>(body: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, body)
    }

    #[test]
    fn five_hundred_machines_cost_three_calls() {
        run(async {
            let calls = Rc::new(Cell::new(0));
            let counted = calls.clone();
            let batcher = Batcher::start(async move |keys: Vec<String>| {
                counted.set(counted.get() + 1);
                assert!(keys.len() <= MOST);
                Ok(keys.into_iter().map(|key| (key.clone(), key)).collect())
            });
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..500 {
                let batcher = batcher.clone();
                tasks.spawn_local(async move {
                    let key = number.to_string();
                    assert_eq!(batcher.of(&key, Duration::from_secs(1)).await.unwrap(), [key]);
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
            assert_eq!(calls.get(), 3);
        });
    }

    #[test]
    fn a_failed_call_fails_those_who_asked_and_nobody_else() {
        run(async {
            let first = Cell::new(true);
            let batcher = Batcher::start(async move |_| match first.replace(false) {
                true => Err(Failure::new(Kind::Denied, "no")),
                false => Ok(vec![("a".to_string(), 1)]),
            });
            assert_eq!(batcher.of("a", Duration::ZERO).await.unwrap_err().kind, Kind::Denied);
            assert_eq!(batcher.of("a", Duration::ZERO).await.unwrap(), [1]);
        });
    }
}
