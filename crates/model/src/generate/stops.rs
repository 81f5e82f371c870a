/// Finds the stop string that is complete first in text that comes piece by piece, and holds back what may be the
/// beginning of one.
pub(super) struct StopStrings<'s> {
    stops: Vec<&'s str>,
    held: String,
}

/// What a piece of text made certain.
#[derive(Debug, PartialEq)]
pub(super) struct Step {
    /// Text before any stop string.
    pub(super) text: String,
    /// Whether a stop string follows it.
    pub(super) stopped: bool,
}

impl<'s> StopStrings<'s> {
    pub(super) fn new(stops: &'s [String]) -> Self {
        Self {
            stops: stops
                .iter()
                .map(String::as_str)
                .filter(|s| !s.is_empty())
                .collect(),
            held: String::new(),
        }
    }

    pub(super) fn push(&mut self, piece: &str) -> Step {
        self.held.push_str(piece);
        let found = self
            .stops
            .iter()
            .filter_map(|stop| {
                self.held
                    .find(stop)
                    .map(|start| (start + stop.len(), start))
            })
            .min();
        let certain = match found {
            Some((_, start)) => start,
            None => self.held.len() - self.beginning(),
        };
        let rest = self.held.split_off(certain);
        let text = std::mem::replace(&mut self.held, rest);
        Step {
            text,
            stopped: found.is_some(),
        }
    }

    /// What was held back, when no more text comes.
    pub(super) fn finish(self) -> String {
        self.held
    }

    /// Bytes at the end of the held text with which a stop string begins.
    fn beginning(&self) -> usize {
        let begins = |at: usize| {
            self.stops
                .iter()
                .any(|stop| stop.starts_with(&self.held[at..]))
        };
        self.held
            .char_indices()
            .map(|(at, _)| at)
            .find(|&at| begins(at))
            .map_or(0, |at| self.held.len() - at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Looks at the text after each character.
    fn slow(text: &str, stops: &[String]) -> (String, bool) {
        let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
        for read in ends.map(|end| &text[..end]) {
            let stop = stops
                .iter()
                .filter(|stop| !stop.is_empty() && read.ends_with(stop.as_str()))
                .max_by_key(|stop| stop.len());
            if let Some(stop) = stop {
                return (read[..read.len() - stop.len()].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    fn streamed(pieces: &[String], stops: &[String]) -> (String, bool) {
        let mut finder = StopStrings::new(stops);
        let mut text = String::new();
        for piece in pieces {
            let step = finder.push(piece);
            text += &step.text;
            if step.stopped {
                return (text, true);
            }
        }
        (text + &finder.finish(), false)
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            pieces in prop::collection::vec("[abé]{0,3}", 0..12),
            stops in prop::collection::vec("[abé]{0,4}", 0..3),
        ) {
            prop_assert_eq!(streamed(&pieces, &stops), slow(&pieces.concat(), &stops));
        }
    }

    #[test]
    fn holds_back_no_more_than_a_beginning() {
        let stops = ["STOP".to_owned()];
        let mut finder = StopStrings::new(&stops);
        let step = |text: &str, stopped| Step {
            text: text.to_owned(),
            stopped,
        };
        assert_eq!(finder.push("a S"), step("a ", false));
        assert_eq!(finder.push("TO"), step("", false));
        assert_eq!(finder.push("RM ST"), step("STORM ", false));
        assert_eq!(finder.push("OP!"), step("", true));
    }
}
