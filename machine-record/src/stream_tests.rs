use super::*;
use clap::Parser;

#[test]
fn a_machine_that_a_tool_lets_fall_leaves_with_an_error() {
    let stdout = Mutex::default();
    let (failed, closed) = (AtomicBool::new(false), AtomicBool::new(false));
    let output = Arc::new(Output { tool: "ec2-up", failed, closed, stdout });
    let mut record = Record::default();
    record.set("name", &"web-1").unwrap();
    drop(Job { record, output: output.clone(), done: false });
    let left = output.stdout.lock().unwrap();
    assert_eq!((left.count, left.failed.as_slice()), (1, &["web-1 (ec2-up: internal)".to_string()][..]));
    assert!(output.failed.load(Ordering::SeqCst), "the tool gave up this machine");
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    stream: StreamArgs,
}

/// Reads a record that failed in another tool; gives what comes of it as work, and how many have left.
fn read_failed(takes_failed: bool, flags: &[&str]) -> (Option<Job>, usize, Arc<Output>) {
    let tool = Tool { name: "ec2-down", starts: false, names: false, takes_failed, jobs: 1 };
    let (failed, closed) = (AtomicBool::new(false), AtomicBool::new(false));
    let output = Arc::new(Output { tool: tool.name, failed, closed, stdout: Mutex::default() });
    let args = Flags::parse_from(["tool"].iter().chain(flags)).stream;
    let (send, arrived) = mpsc::sync_channel(1);
    let mut reader = Reader { tool, args, output: output.clone(), names: HashSet::new(), nameless: false, send };
    let mut record = Record::default();
    record.set("name", &"web-1").unwrap();
    record.fail("nix-push", &Failure::new(Kind::Evaluation, "x"));
    reader.admit(record).unwrap();
    let work = arrived.try_recv().ok().map(|record| Job { record, output: output.clone(), done: false });
    let left = output.stdout.lock().unwrap().count;
    (work, left, output)
}

#[test]
fn a_machine_that_failed_before_is_work_for_a_tool_that_says_so() {
    for flags in [&[][..], &["--retry"], &["--plan"]] {
        let (work, left, output) = read_failed(false, flags);
        assert!(work.is_none() && left == 1 && output.failed.load(Ordering::SeqCst), "{flags:?}");
        let (work, left, output) = read_failed(true, flags);
        let mut work = work.unwrap();
        assert!(work.record.text("error").is_some() && left == 0 && !output.failed.load(Ordering::SeqCst), "{flags:?}");
        work.record.remove("error");
        work.finish(Ok(()));
        assert!(!output.failed.load(Ordering::SeqCst), "what failed is settled");
    }
    let failed = |output: &Output| output.stdout.lock().unwrap().failed.clone();
    let (work, _, output) = read_failed(true, &[]);
    work.unwrap().finish(Ok(()));
    assert!(output.failed.load(Ordering::SeqCst), "the tool has left the error as it is");
    assert_eq!(failed(&output), ["web-1 (nix-push: evaluation)"]);
    let (work, _, output) = read_failed(true, &[]);
    work.unwrap().finish(Err(Failure::new(Kind::Denied, "y").into()));
    assert_eq!(failed(&output), ["web-1 (ec2-down: denied)"], "its own error takes the place");
}
