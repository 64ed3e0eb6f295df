//! Finds fields that a type doesn't have, by comparing what was written with what the type kept of it.
//!
//! An API server drops unknown fields silently. For a policy that is dangerous: a `matches` with a typo means
//! all matches.

use serde_json::Value;

/// Paths of the fields in `written` that `kept` has no place for, such as `spec.rules[0].machtes`.
pub fn fields(written: &Value, kept: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk("", written, kept, &mut found);
    found
}

fn walk(at: &str, written: &Value, kept: &Value, found: &mut Vec<String>) {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => {
            // A null is the same as nothing (Kubernetes drops them), and a type may leave it out.
            for (key, value) in written.iter().filter(|(_, value)| !value.is_null()) {
                let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                match kept.get(key) {
                    Some(kept) => walk(&path, value, kept, found),
                    None => found.push(path),
                }
            }
        }
        (Value::Array(written), Value::Array(kept)) => {
            for (index, (written, kept)) in written.iter().zip(kept).enumerate() {
                walk(&format!("{at}[{index}]"), written, kept, found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_every_field_without_a_place() {
        let written = json!({"a": {"b": 1, "c": null, "x": 2}, "l": [{"k": 1}, {"k": 1, "y": []}], "z": {}});
        let kept = json!({"a": {"b": 1}, "l": [{"k": 1}, {"k": 1}], "more": 1});
        assert_eq!(fields(&written, &kept), ["a.x", "l[1].y", "z"]);
    }
}
