use treillage_backend::{Choice, Inference};

use crate::{Error, Sampler, SamplingOptions, Session};

/// Tokens drawn one after the other.
///
/// Where the backend runs behind, it is asked for the token after the next before the next is read, so that it never
/// waits for the host.
pub(super) struct Drawing<'s, 'm, B: Inference> {
    session: &'s mut Session<'m, B>,
    sampler: Sampler,
    next: Next<B>,
}

/// Where the next token comes from.
enum Next<B: Inference> {
    /// From these logits: a penalty must see them first.
    Logits(Vec<f32>),
    /// The backend has chosen it, or is about to.
    Chosen(Chosen<B>),
    /// The session has yet to read this one.
    After(u32),
}

/// A token that the backend chooses.
struct Chosen<B: Inference> {
    token: B::Tokens,
    choice: Choice,
    /// The first of the tokens that were read for it.
    from: usize,
}

impl<'s, 'm, B: Inference> Drawing<'s, 'm, B> {
    /// Reads `prompt`, of which the session knows `known` tokens.
    pub(super) fn start(
        session: &'s mut Session<'m, B>,
        sampling: SamplingOptions,
        prompt: &[u32],
        known: usize,
    ) -> Result<Self, Error> {
        let mut sampler = Sampler::new(sampling)?;
        sampler.observe(prompt);
        let mut drawing = Self {
            session,
            sampler,
            next: Next::After(0),
        };
        drawing.next = drawing.after(&prompt[known..])?;
        Ok(drawing)
    }

    /// The next token; `None` if the session has no room for the one before it. `more` says whether another one is
    /// likely to be wanted after it.
    pub(super) fn next(&mut self, more: bool) -> Result<Option<u32>, Error> {
        if let Next::After(last) = self.next {
            if self.is_full() {
                return Ok(None);
            }
            self.next = self.after(&[last])?;
        }
        let mut ahead = match &self.next {
            Next::Chosen(chosen) if more && !self.is_full() && self.backend().runs_behind() => {
                match self.sampler.choice() {
                    Some(choice) => Some(Chosen {
                        from: self.session.len(),
                        token: self.session.follow(&chosen.token, &choice)?,
                        choice,
                    }),
                    None => None,
                }
            }
            _ => None,
        };
        let id = match &self.next {
            Next::Logits(logits) => self.sampler.sample(logits)?,
            Next::After(last) => *last,
            Next::Chosen(chosen) => match self.read(&chosen.token) {
                Ok(id) => {
                    if ahead.is_some() {
                        self.session.tell(id);
                    }
                    id
                }
                Err(error) if error.is_not_finite() => {
                    let Chosen { from, choice, .. } = chosen;
                    let id = self.session.choose_again(error, *from, choice)?;
                    // What was asked for meanwhile comes after a token that was none.
                    if let Some(lost) = ahead {
                        ahead = Some(self.chosen_after(&[id], lost.choice)?);
                    }
                    id
                }
                Err(error) => return Err(error),
            },
        };
        self.sampler.observe(&[id]);
        self.next = match ahead {
            Some(chosen) => Next::Chosen(chosen),
            None => Next::After(id),
        };
        Ok(Some(id))
    }

    fn after(&mut self, ids: &[u32]) -> Result<Next<B>, Error> {
        Ok(match self.sampler.choice() {
            Some(choice) => Next::Chosen(self.chosen_after(ids, choice)?),
            None => Next::Logits(self.session.extend(ids)?),
        })
    }

    fn chosen_after(&mut self, ids: &[u32], choice: Choice) -> Result<Chosen<B>, Error> {
        Ok(Chosen {
            from: self.session.len(),
            token: self.session.extend_and_choose(ids, &choice)?,
            choice,
        })
    }

    fn read(&self, token: &B::Tokens) -> Result<u32, Error> {
        let ids = self.backend().read_tokens(token)?;
        ids.first().copied().ok_or(Error::NotFinite)
    }

    fn is_full(&self) -> bool {
        self.session.len() == self.session.capacity()
    }

    fn backend(&self) -> &'m B {
        self.session.backend()
    }
}
