//! What people read.

use super::*;

/// How many of those that are waited for a message names.
const NAMED: usize = 3;

impl Decision {
    /// One sentence: what goes on, and who is waited for.
    #[must_use]
    pub fn words(&self) -> String {
        if let Some(stuck) = &self.stuck {
            return self.stuck_words(stuck);
        }
        let (from, to) = (self.generation, self.target);
        let told = match self.step {
            RotationStep::Stable if self.directive.is_none() => "no root of trust yet".to_owned(),
            RotationStep::Stable => self.stable_words(),
            RotationStep::Preparing => format!("step 1 of 4 towards root {to}: making it beside root {from}"),
            RotationStep::TrustingBoth => {
                format!("step 2 of 4 towards root {to}: root {from} signs, both are trusted")
            }
            RotationStep::Issuing => format!("step 3 of 4 towards root {to}: it signs, both are trusted"),
            RotationStep::Dropping => format!("step 4 of 4 towards root {to}: only it is trusted"),
        };
        match self.waiting.as_slice() {
            [] => told,
            waiting => format!("{told}; waiting for {}: {}", waiting.len(), named(waiting)),
        }
    }

    fn stable_words(&self) -> String {
        let Some((_, end)) = self.life else { return "the root in force stays".to_owned() };
        let told = format!("root {} signs until {end}", self.generation);
        if self.wanted >= self.generation {
            return told;
        }
        // After a rotation by itself, or an edit that was taken back too late.
        format!("{told}; roots before it are deleted: a rootGeneration above {} rotates", self.generation)
    }

    fn stuck_words(&self, stuck: &Stuck) -> String {
        let generation = self.generation;
        match stuck {
            Stuck::BadSecret(problem) => format!("{problem}; root {generation} stays in force"),
            Stuck::SecretGone => format!(
                "the Secret {} is gone; certificates are signed as long as a controller remembers its key: put it back",
                labels::ROOT_SECRET
            ),
        }
    }

    /// CamelCase reason of the condition `CertificatesIssued`.
    #[must_use]
    pub fn reason(&self) -> &str {
        match &self.stuck {
            Some(Stuck::BadSecret(problem)) => problem.split(':').next().unwrap_or("BadSecret"),
            Some(Stuck::SecretGone) => "SecretGone",
            None if self.directive.is_none() => "NoRoot",
            None => self.step.as_str(),
        }
    }
}

fn named(waiting: &[String]) -> String {
    let mut text = waiting.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    let more = waiting.len().saturating_sub(NAMED);
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}
