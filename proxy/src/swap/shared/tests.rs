use super::*;

#[test]
fn a_lock_is_one_slots_and_ends_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let shared = Shared::new(directory.path()).unwrap();
    assert!(!shared.is_alive(Slot::A) && !shared.is_attempted());
    let alive = shared.live_on(Slot::A).unwrap();
    assert!(shared.is_alive(Slot::A) && !shared.is_alive(Slot::B));
    drop(alive);
    assert!(!shared.is_alive(Slot::A));
    let attempt = shared.attempt().unwrap();
    assert!(shared.attempt().is_none() && shared.is_attempted());
    drop(attempt);
    assert!(shared.attempt().is_some());
}

/// What 0.2.0 wrote is read here, and what is written here 0.2.0 reads: its structures are these, with every field that it
/// needs.
#[test]
fn files_of_the_release_before_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let shared = Shared::new(directory.path()).unwrap();
    let golden = |name: &str, text: &str| {
        let path = directory.path().join("slots").join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let live = Live { slot: Slot::B, epoch: 3, drains_until: 1_790_000_000 };
    let before = r#"{"drains_until":1790000000,"epoch":3,"slot":"b"}"#;
    let path = golden("live.json", before);
    assert_eq!(shared.live(), Some(live));
    shared.set_live(live).unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), before);
    golden("live.json", r#"{"epoch":3,"slot":"b"}"#);
    assert_eq!(shared.live().map(|live| live.drains_until), Some(0), "0.1.0 did not say it");
    golden("live.json", r#"{"epoch":3,"slot":"b","drains_until":0,"of_tomorrow":{}}"#);
    assert!(shared.live().is_some(), "a field of a newer release");
    let before = r#"{"at":1790000000,"count":2,"release":"0.2.0"}"#;
    let path = golden("failures-a.json", before);
    let failures = shared.failures(Slot::A);
    assert_eq!(failures, Failures { count: 2, release: "0.2.0".to_owned(), at: 1_790_000_000 });
    shared.write("failures-a.json", &failures).unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), before);
    shared.introduce(5).unwrap();
    shared.retire(4).unwrap();
    let retired = |epoch: u32| std::fs::read_to_string(retired_path(directory.path(), epoch)).unwrap();
    assert_eq!((retired(5).as_str(), retired(4).as_str()), ("0", "1"));
}

#[test]
fn who_is_live_survives_garbage() {
    let directory = tempfile::tempdir().unwrap();
    let shared = Shared::new(directory.path()).unwrap();
    assert_eq!(shared.live(), None);
    let live = Live { slot: Slot::B, epoch: 3, drains_until: 100 };
    shared.set_live(live).unwrap();
    assert_eq!(shared.live(), Some(live));
    let drain = Duration::from_secs(15);
    assert_eq!(live.pause(drain, 90), Duration::from_secs(10));
    assert_eq!((live.pause(drain, 100), live.pause(drain, 0)), (Duration::ZERO, drain));
    std::fs::write(directory.path().join("slots/live.json"), "{").unwrap();
    assert_eq!(shared.live(), None);
}

/// Another process that holds what a launcher of slot b holds, until its input ends.
fn launcher_of_b(directory: &Path, locks: &str) -> std::process::Child {
    let script = format!(
        "import fcntl,sys\nfiles=[open(name,'a') for name in sys.argv[1:]]\n[{locks}(file,fcntl.LOCK_EX|fcntl.LOCK_NB) for file in files]\nprint('held',flush=True)\nsys.stdin.read()"
    );
    let names = ["launcher-b", "alive-b"].map(|name| directory.join("slots").join(name));
    let mut child = std::process::Command::new("python3")
        .arg("-c")
        .arg(script)
        .args(if locks == "fcntl.flock" { &names[1..] } else { &names[..] })
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let output = child.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
    assert_eq!(line, "held\n");
    child
}

/// A launcher that can be asked is asked; one of 0.2.0 is found out as ever.
#[test]
fn asking_takes_no_lock() {
    for locks in ["fcntl.lockf", "fcntl.flock"] {
        let directory = tempfile::tempdir().unwrap();
        let shared = Shared::of(directory.path(), Slot::A).unwrap();
        assert!(!shared.is_alive(Slot::B) && !shared.is_attempted());
        let mut other = launcher_of_b(directory.path(), locks);
        assert!(shared.is_alive(Slot::B), "{locks}");
        assert!(!shared.is_attempted());
        if locks == "fcntl.lockf" {
            // However often one asks, whoever wants it gets it at the first try.
            let asking = shared.clone();
            let asked = std::thread::spawn(move || (0..5_000).any(|_| asking.is_attempted()));
            for _ in 0..5_000 {
                let file = shared.open(ATTEMPT).unwrap();
                flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).unwrap();
            }
            assert!(!asked.join().unwrap());
        }
        drop(other.stdin.take());
        other.wait().unwrap();
        assert!(!shared.is_alive(Slot::B), "{locks}");
    }
}

#[test]
fn pauses_grow_and_are_of_one_release() {
    let directory = tempfile::tempdir().unwrap();
    let shared = Shared::new(directory.path()).unwrap();
    assert_eq!(shared.failures(Slot::B).pause("2", now()), Duration::ZERO);
    shared.note(Slot::B, "2", true);
    let failures = shared.failures(Slot::B);
    assert_eq!(failures.pause("2", failures.at), FIRST_PAUSE);
    assert_eq!(failures.pause("2", failures.at + 60), Duration::ZERO);
    assert_eq!(failures.pause("3", failures.at), Duration::ZERO);
    for _ in 0..40 {
        shared.note(Slot::B, "2", true);
    }
    let failures = shared.failures(Slot::B);
    assert_eq!(failures.pause("2", failures.at), LONGEST_PAUSE);
    assert_eq!(failures.pause("2", 0), LONGEST_PAUSE, "a clock that was put back");
    shared.note(Slot::B, "2", false);
    assert_eq!(shared.failures(Slot::B).pause("2", now()), Duration::ZERO);
}
