//! What is being waited for: a spinner on a terminal, plain lines elsewhere, each line once.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Progress of one long piece of work, on standard error.
pub struct Progress {
    begun: Instant,
    spinner: Option<ProgressBar>,
    last: String,
}

impl Progress {
    /// Begins.
    pub fn begin() -> Self {
        let spinner = std::io::stderr().is_terminal().then(|| {
            let spinner = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {msg}") {
                spinner.set_style(style);
            }
            spinner.enable_steady_tick(Duration::from_millis(120));
            spinner
        });
        Self { begun: Instant::now(), spinner, last: String::new() }
    }

    /// Says what is waited for now. Saying the same again prints nothing.
    pub fn waiting(&mut self, message: &str) {
        if self.last == message {
            return;
        }
        message.clone_into(&mut self.last);
        match &self.spinner {
            Some(spinner) => spinner.set_message(self.last.clone()),
            None => eprintln!("{:>4.0}s {message}", self.begun.elapsed().as_secs_f64()),
        }
    }

    /// Says that something is done.
    pub fn done(&mut self, message: &str) {
        match &self.spinner {
            Some(spinner) => spinner.println(format!("  {message}")),
            None => eprintln!("{:>4.0}s {message}", self.begun.elapsed().as_secs_f64()),
        }
    }

    /// Ends; nothing stays on the terminal but what was done.
    pub fn end(self) {
        if let Some(spinner) = self.spinner {
            spinner.finish_and_clear();
        }
    }
}
