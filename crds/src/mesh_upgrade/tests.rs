//! Records that cross releases.

use serde_json::json;

use super::*;

#[test]
fn what_a_newer_release_wrote_is_read_and_kept() {
    let text = json!({
        "conditions": [], "phase": "Rehearsing", "rehearsal": {"of": "0.9.0"},
        "steps": [{"step": "s", "state": "Skipped", "colour": "red", "startedAt": "t"}],
        "legs": [{"to": "0.2.0", "since": "t", "why": "x"}],
        "soaks": [{"wave": "w", "since": "t", "verdict": "fine"}],
    });
    let status: MeshUpgradeStatus = serde_json::from_value(text.clone()).unwrap();
    assert_eq!(status.phase, None);
    assert_eq!(status.steps[0].state, StepState::Running, "a state that is not known is one that goes on");
    let mut expected = text;
    expected.as_object_mut().unwrap().remove("phase");
    expected["steps"][0]["state"] = json!("Running");
    assert_eq!(serde_json::to_value(&status).unwrap(), expected);
}

#[test]
fn a_record_of_before_there_were_facts_is_read_and_written_as_before() {
    let text = json!({
        "conditions": [], "phase": "Moving", "steps": [{"step": "s", "state": "Done"}],
        "soaks": [{"wave": "w", "since": "t"}],
    });
    let status: MeshUpgradeStatus = serde_json::from_value(text.clone()).unwrap();
    assert_eq!((status.legs.len(), status.steps[0].leg, status.soaks[0].watched_seconds), (0, None, None));
    assert_eq!(serde_json::to_value(&status).unwrap(), text);
}
