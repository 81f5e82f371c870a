//! The recurrent state of one layer.

use treillage_backend::{DeltaSpec, Error, Room};

/// The state of one layer, for one sequence.
#[derive(Debug)]
pub(crate) struct DeltaCache {
    spec: DeltaSpec,
    capacity: usize,
    pub(super) state: State,
    /// What it was at a point that can be gone back to.
    mark: Option<State>,
}

/// What a layer knows of the tokens it has read.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Tokens read.
    pub(super) len: usize,
    /// For each value head `[key_dim, value_dim]`, row-major.
    pub(super) matrices: Vec<f32>,
    /// What the convolution needs of the last tokens, `kernel − 1` rows of its channels in the projection's order, key
    /// head by key head.
    pub(super) tail: Vec<f32>,
}

impl State {
    fn new(spec: &DeltaSpec) -> Self {
        Self {
            len: 0,
            matrices: vec![0.0; spec.state()],
            tail: vec![0.0; (spec.kernel - 1) * spec.channels()],
        }
    }
}

impl DeltaCache {
    pub(crate) fn new(spec: &DeltaSpec, capacity: usize) -> Self {
        Self {
            spec: *spec,
            capacity,
            state: State::new(spec),
            mark: None,
        }
    }

    /// Tokens read.
    pub(crate) fn len(&self) -> usize {
        self.state.len
    }

    /// Fails unless this cache is for `spec` and `tokens` more fit.
    pub(super) fn check(&self, spec: &DeltaSpec, tokens: usize) -> Result<(), Error> {
        if self.spec != *spec {
            return Err(Error::WrongCache("a delta rule of this size"));
        }
        let room = Room {
            capacity: self.capacity,
            len: self.state.len,
        };
        room.check(tokens)
    }

    /// Makes the state a point that can be gone back to.
    pub(crate) fn mark(&mut self) {
        match &mut self.mark {
            Some(mark) => mark.clone_from(&self.state),
            None => self.mark = Some(self.state.clone()),
        }
    }

    /// Goes back to the mark if there are more than `len` tokens, or to the beginning if that is too many as well.
    pub(crate) fn truncate(&mut self, len: usize) {
        if self.state.len <= len {
            return;
        }
        match &self.mark {
            Some(mark) if mark.len <= len => self.state.clone_from(mark),
            _ => {
                self.mark = None;
                self.state.len = 0;
                self.state.matrices.fill(0.0);
                self.state.tail.fill(0.0);
            }
        }
    }
}
