//! Progress bars on standard error: drawn only where that is a terminal and people want to read.

use std::{fmt::Write, time::Duration};

use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use treillage_model::evaluate;
use treillage_quantize::Event;

/// The bar of a quantization.
pub(crate) struct Quantizing {
    bar: ProgressBar,
    blocks: usize,
    rows: usize,
    passes: usize,
}

impl Quantizing {
    /// A bar that [`Event::Started`] sets going.
    pub(crate) fn new(visible: bool, label: String) -> Self {
        Self {
            bar: bar(visible, label),
            blocks: 0,
            rows: 0,
            passes: 0,
        }
    }

    /// Shows what happened.
    pub(crate) fn show(&mut self, event: &Event) {
        match event {
            Event::Started {
                blocks,
                finished,
                weights,
                rows,
                ..
            } => {
                self.blocks = *blocks;
                self.rows = *rows;
                self.bar.set_length(*weights);
                if *finished > 0 {
                    self.bar
                        .println(format!("resuming behind block {finished} of {blocks}"));
                }
            }
            Event::Surveyed { block, blocks } => self.bar.set_message(format!(
                "surveying the model: block {} of {blocks}",
                block + 1
            )),
            Event::Block { passes, .. } => self.passes = *passes,
            Event::Forwarded { block, pass, rows } => self.bar.set_message(format!(
                "{}: pass {} of {}, row {rows} of {}",
                self.block(*block),
                pass + 1,
                self.passes,
                self.rows
            )),
            Event::Encoded {
                prefix, weights, ..
            } => {
                self.bar.set_position(*weights);
                let inside = prefix.strip_prefix("model.").unwrap_or(prefix);
                self.bar.set_message(inside.to_owned());
            }
            Event::Finished { block } => {
                self.bar
                    .set_message(format!("{}: on disk", self.block(*block)));
            }
            Event::Assembling => self.bar.set_message("assembling"),
            _ => {}
        }
    }

    fn block(&self, index: usize) -> String {
        if index < self.blocks {
            format!("block {} of {}", index + 1, self.blocks)
        } else {
            "head".to_owned()
        }
    }
}

impl Drop for Quantizing {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The bar of an evaluation.
pub(crate) struct Evaluating(ProgressBar);

impl Evaluating {
    /// A bar that the first window sets going.
    pub(crate) fn new(visible: bool, label: String) -> Self {
        Self(bar(visible, label))
    }

    /// Shows what is done.
    pub(crate) fn show(&mut self, progress: evaluate::Progress) {
        self.0.set_length(progress.windows as u64);
        self.0.set_position(progress.done as u64);
        self.0
            .set_message(format!("perplexity so far {:.3}", progress.perplexity));
    }
}

impl Drop for Evaluating {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn bar(visible: bool, label: String) -> ProgressBar {
    let target = if visible {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(1), target).with_prefix(label);
    let template = "{prefix} [{bar:16}] {percent:>3}%  {remaining} to go  {wide_msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> ").with_key("remaining", remaining));
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// What is left at the pace of the whole run so far. Steps come in bursts, which a momentary pace would follow.
fn remaining(state: &ProgressState, text: &mut dyn Write) {
    let done = f64::from(state.fraction());
    _ = if done > 0.0 && state.pos() > 0 {
        let left = state.elapsed().mul_f64((1.0 - done) / done);
        write!(text, "{}", FormattedDuration(left))
    } else {
        text.write_str("--:--:--")
    };
}
