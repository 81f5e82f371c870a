//! Which tokens each expert gets.

use std::ops::Range;

use crate::Routes;

/// The choices of a batch, expert by expert.
///
/// Each choice of [`Routes::choices`] is in exactly one group, that of its expert, and keeps its order there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    top_k: usize,
    /// Where each expert's choices begin, and the end of the last one's.
    starts: Vec<u32>,
    /// Numbers of choices, by expert.
    choices: Vec<u32>,
    /// For each choice, its place in `choices`.
    places: Vec<u32>,
}

impl Groups {
    /// Experts there are, with tokens or without.
    pub fn experts(&self) -> usize {
        self.starts.len() - 1
    }

    /// The part of [`Groups::choices`] that belongs to `expert`.
    pub fn range(&self, expert: usize) -> Range<usize> {
        self.starts[expert] as usize..self.starts[expert + 1] as usize
    }

    /// Experts that have a token, ascending.
    pub fn active(&self) -> impl Iterator<Item = usize> {
        (0..self.experts()).filter(|&expert| !self.range(expert).is_empty())
    }

    /// Numbers of choices as in [`Routes::choices`], by expert.
    pub fn choices(&self) -> &[u32] {
        &self.choices
    }

    /// The tokens of `expert`, ascending.
    pub fn tokens(&self, expert: usize) -> impl ExactSizeIterator<Item = usize> {
        self.choices[self.range(expert)]
            .iter()
            .map(|&choice| choice as usize / self.top_k)
    }

    /// Where in [`Groups::choices`] each choice of `token` stands, slot by slot.
    pub fn places(&self, token: usize) -> &[u32] {
        &self.places[token * self.top_k..][..self.top_k]
    }
}

/// Groups the choices of a batch by expert: a counting sort, linear in choices plus experts.
///
/// ```
/// use treillage_moe::{Routing, group, route};
///
/// let routing = Routing::softmax(1, true);
/// let routes = route(&[0.0, 1.0, /* */ 1.0, 0.0, /* */ 0.0, 1.0], 2, &routing, None)?;
/// let groups = group(&routes);
/// assert!(groups.tokens(0).eq([1]));
/// assert!(groups.tokens(1).eq([0, 2]));
/// # Ok::<(), treillage_moe::Error>(())
/// ```
pub fn group(routes: &Routes) -> Groups {
    let mut starts = vec![0u32; routes.experts() + 1];
    for choice in routes.choices() {
        starts[choice.expert as usize + 1] += 1;
    }
    for expert in 0..routes.experts() {
        starts[expert + 1] += starts[expert];
    }
    let mut next = starts.clone();
    let mut choices = vec![0u32; routes.choices().len()];
    let mut places = vec![0u32; routes.choices().len()];
    for (number, choice) in routes.choices().iter().enumerate() {
        let place = &mut next[choice.expert as usize];
        choices[*place as usize] = number as u32;
        places[number] = *place;
        *place += 1;
    }
    Groups {
        top_k: routes.top_k(),
        starts,
        choices,
        places,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Routing, route};

    #[test]
    fn no_tokens_make_empty_groups() {
        let routing = Routing::softmax(2, true);
        let groups = group(&route(&[], 3, &routing, None).unwrap());
        assert_eq!(groups.experts(), 3);
        assert_eq!(groups.active().count(), 0);
    }

    proptest! {
        #[test]
        fn every_choice_is_in_its_experts_group_once(
            (experts, top_k, logits) in (1usize..20, 0usize..30).prop_flat_map(|(experts, tokens)| {
                (Just(experts), 1..=experts, prop::collection::vec(-3i8..3, experts * tokens))
            })
        ) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let routes = route(&logits, experts, &Routing::softmax(top_k, true), None).unwrap();
            let groups = group(&routes);

            let mut slow: Vec<u32> = (0..routes.choices().len() as u32).collect();
            slow.sort_by_key(|&c| routes.choices()[c as usize].expert);
            prop_assert_eq!(groups.choices(), &slow[..]);

            for expert in 0..experts {
                let members = &groups.choices()[groups.range(expert)];
                prop_assert!(members.iter().all(|&c| routes.choices()[c as usize].expert as usize == expert));
                prop_assert!(groups.tokens(expert).eq(members.iter().map(|&c| c as usize / top_k)));
            }
            for token in 0..routes.tokens() {
                for (slot, &place) in groups.places(token).iter().enumerate() {
                    prop_assert_eq!(groups.choices()[place as usize] as usize, token * top_k + slot);
                }
            }
            let active = (0..experts).filter(|&e| routes.choices().iter().any(|c| c.expert as usize == e));
            prop_assert!(groups.active().eq(active));
        }
    }
}
