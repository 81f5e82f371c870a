//! What calibration gathers of the inputs of linears.

use super::common::cold;
use crate::{
    Specialization,
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[source!("moments/gram"), source!("moments/weigh")],
    kernels: &[cold("moments/gram", gram), cold("moments/weigh", weigh)],
};

fn gram() -> Vec<Specialization> {
    ["true", "false"]
        .map(|grouped| Specialization::new([("GROUPED", grouped)]))
        .to_vec()
}

fn weigh() -> Vec<Specialization> {
    [("true", "true"), ("true", "false"), ("false", "false")]
        .map(|(routed, squared)| {
            Specialization::new([("WG", 256)])
                .with("ROUTED", routed)
                .with("SQUARED", squared)
        })
        .to_vec()
}
