//! A child in somebody else's hands says whatever it likes.

use super::*;
use proptest::prelude::*;

fn answer(found: Found) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes, &Answer { confinement: None, result: found }).unwrap();
    bytes
}

fn fetched(id: &str, files: usize, problems: Vec<Flaw>) -> Found {
    Found::Fetched {
        id: id.to_owned(),
        subject: "s\u{1b}[31m".to_owned(),
        seconds: i64::MAX,
        files,
        problems,
    }
}

fn read_all(bytes: &[u8]) -> Result<Checked, BadAnswer> {
    read_answer(&mut &bytes[..]).map(|(_, checked)| checked)
}

#[test]
fn an_honest_answer_arrives() {
    let mut bytes = answer(fetched(&"a".repeat(40), 2, vec![Flaw { file: None, kind: Kind::TooManyFiles }]));
    write_file(&mut bytes, "a.yaml", "ä").unwrap();
    write_file(&mut bytes, "b/c.yaml", "").unwrap();
    let Ok(Checked::Fetched(found)) = read_all(&bytes) else { panic!("not read") };
    assert_eq!(found.files.len(), 2);
    assert_eq!(
        (found.commit.subject.as_str(), found.commit.time.as_str()),
        ("s[31m", "1970-01-01T00:00:00Z")
    );
    assert_eq!(found.problems[0].reason(), "TooMuch");
}

#[test]
fn lies_are_refused() {
    let id = "a".repeat(40);
    let file = |path: &str, text: &str| {
        let mut bytes = answer(fetched(&id, 1, vec![]));
        write_file(&mut bytes, path, text).unwrap();
        bytes
    };
    let twice = {
        let mut bytes = answer(fetched(&id, 2, vec![]));
        (0..2).for_each(|_| write_file(&mut bytes, "a", "").unwrap());
        bytes
    };
    let flaws = vec![Flaw { file: None, kind: Kind::NotText }; MAX_PROBLEMS + 1];
    let outside = vec![Flaw { file: Some("/etc/passwd".into()), kind: Kind::NotText }];
    let mut huge = answer(fetched(&id, 1, vec![]));
    huge.extend_from_slice(&u32::MAX.to_be_bytes());
    let mut newer = answer(Found::Unchanged);
    newer[MAGIC.len()] = VERSION + 1;
    for (bytes, expected) in [
        (Vec::new(), BadAnswer::Short),
        (b"HTTP/1.1 200 OK\r\n".to_vec(), BadAnswer::Version),
        (newer, BadAnswer::Version),
        (answer(fetched(&id, 1, vec![])), BadAnswer::Short),
        (answer(fetched(&id, MAX_FILES + 1, vec![])), BadAnswer::TooLarge),
        (answer(fetched(&id, 0, flaws)), BadAnswer::TooLarge),
        (answer(fetched(&id, 0, outside)), BadAnswer::Path),
        (answer(fetched("HEAD", 0, vec![])), BadAnswer::Content),
        (answer(fetched(&"A".repeat(40), 0, vec![])), BadAnswer::Content),
        (file("../a", ""), BadAnswer::Path),
        (file("a\nb", ""), BadAnswer::Path),
        (file("a", &"x".repeat(MAX_FILE_BYTES + 1)), BadAnswer::TooLarge),
        (twice, BadAnswer::Content),
        (huge, BadAnswer::TooLarge),
    ] {
        assert_eq!(read_all(&bytes).map(|_| ()), Err(expected), "{:?}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn texts_are_fit_to_be_shown() {
    let detail = format!("a\u{7}\n{}", "x".repeat(1000));
    let failure = Failure { reason: "Local".into(), detail, existing: vec!["\u{1b}y".into(); 9] };
    let Ok(Checked::Failed(found)) = read_all(&answer(Found::Failed(failure))) else { panic!("not read") };
    assert_eq!((found.detail.len(), found.existing.len(), found.existing[0].as_str()), (200, 5, "y"));
}

#[test]
fn an_older_and_a_newer_child_of_the_same_version_are_understood() {
    // A field that is not known yet is passed over, one that is not there has its old meaning.
    let text = br#"{"result": {"Failed": {"reason": "Timeout", "hint": 1}}, "more": true}"#;
    let mut bytes = b"MWGIT\x01".to_vec();
    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(text);
    assert!(matches!(read_all(&bytes), Ok(Checked::Failed(failure)) if failure.reason == "Timeout"));
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer_or_an_error(
        mut honest in prop::bool::ANY.prop_map(|files| {
            let mut bytes = answer(fetched(&"a".repeat(40), usize::from(files), vec![]));
            write_file(&mut bytes, "a.yaml", "text").unwrap();
            bytes
        }),
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let start = at.index(honest.len());
        for (index, byte) in with.into_iter().enumerate() {
            if let Some(place) = honest.get_mut(start + index) {
                *place = byte;
            }
        }
        if let Ok(Checked::Fetched(found)) = read_all(&honest) {
            prop_assert!(found.files.len() <= MAX_FILES && found.commit.id.len() == 40);
        }
    }
}
