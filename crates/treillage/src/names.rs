//! Names of linears, for people.

/// What `prefix` is in every layer and for every expert: `model.layers.7.mlp.experts.3.up_proj` is
/// `mlp.experts.*.up_proj`.
pub(crate) fn role(prefix: &str) -> String {
    let inside = prefix
        .strip_prefix("model.layers.")
        .and_then(|rest| rest.split_once('.'))
        .map_or(prefix, |(_, inside)| inside);
    let any_expert = |part| match part {
        number if is_number(number) => "*",
        name => name,
    };
    inside
        .split('.')
        .map(any_expert)
        .collect::<Vec<_>>()
        .join(".")
}

fn is_number(part: &str) -> bool {
    part.bytes().all(|byte| byte.is_ascii_digit())
}

/// Puts `items` into groups of one key, in the order in which the keys first come.
pub(crate) fn grouped_by<T, K: PartialEq>(
    items: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> K,
) -> Vec<(K, Vec<T>)> {
    let mut groups: Vec<(K, Vec<T>)> = Vec::new();
    for item in items {
        let of_item = key(&item);
        match groups.iter_mut().find(|(known, _)| *known == of_item) {
            Some((_, members)) => members.push(item),
            None => groups.push((of_item, vec![item])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_leave_numbers_out() {
        for (prefix, name) in [
            (
                "model.layers.7.mlp.experts.3.up_proj",
                "mlp.experts.*.up_proj",
            ),
            ("model.layers.0.self_attn.q_proj", "self_attn.q_proj"),
            ("lm_head", "lm_head"),
        ] {
            assert_eq!(role(prefix), name);
        }
    }

    #[test]
    fn groups_keep_their_order() {
        let groups = grouped_by([3, 1, 5, 2], |n| n % 2);
        assert_eq!(groups, [(1, vec![3, 1, 5]), (0, vec![2])]);
    }
}
