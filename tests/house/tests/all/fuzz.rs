//! The ways in (`house::fuzz`) over their stored corpus, as it is and changed in places: a bounded run of what `make fuzz`
//! does for hours, without a nightly compiler. Whatever panicked once belongs into the corpus.

use house::fuzz::{TARGETS, mutate};

/// Changed copies of each file.
const ROUNDS: u64 = 150;

fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = house::root().join("fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|path| (path.display().to_string(), std::fs::read(path).unwrap())).collect()
}

/// Files whose name begins with `good` are taken for something, so that a run does not only see the first check.
#[test]
fn what_is_good_is_taken_and_what_is_bad_is_not() {
    for target in TARGETS {
        let files = corpus(target.name);
        let good = |path: &str| path.rsplit('/').next().unwrap().starts_with("good");
        assert!(files.iter().any(|(path, _)| good(path)), "{} has nothing good", target.name);
        assert!(files.iter().any(|(path, _)| !good(path)), "{} has nothing bad", target.name);
        for (path, bytes) in files {
            assert_eq!((target.take)(&bytes), good(&path), "{path}");
        }
    }
}

#[test]
fn no_bytes_end_a_process() {
    for target in TARGETS {
        let files = corpus(target.name);
        let mut taken = 0_u64;
        for (place, (path, bytes)) in files.iter().enumerate() {
            let (_, other) = &files[(place + 1) % files.len()];
            for seed in 0..ROUNDS {
                let changed = mutate(bytes, other, seed);
                let run = std::panic::catch_unwind(|| (target.take)(&changed));
                let said = run.unwrap_or_else(|_| panic!("{}: {path} with seed {seed} panics", target.name));
                taken += u64::from(said);
            }
        }
        // Else the changes are so many that nothing behind the first check is ever reached.
        assert!(taken > 0 || target.name == "csr", "{}: nothing changed was taken for anything", target.name);
    }
}

#[test]
fn every_target_is_one_of_cargo_fuzz() {
    for target in TARGETS {
        let path = house::root().join(format!("fuzz/fuzz_targets/{}.rs", target.name));
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(text.contains(&format!("house::fuzz::{}", target.name)), "{text}");
    }
}
