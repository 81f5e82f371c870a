//! Serialised forms of settings whose crates know nothing of serde.

use serde::{Deserialize, Serialize};
use treillage_backend::RouteWeighting;
use treillage_gptq::{ScaleRule, Solver};
use treillage_trellis::{HessianMetric, OutScales};

#[derive(Serialize, Deserialize)]
#[serde(remote = "OutScales", rename_all = "snake_case")]
pub(crate) enum OutScalesName {
    Always,
    Never,
    Auto,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "HessianMetric", rename_all = "snake_case")]
pub(crate) enum HessianMetricName {
    FullScale,
    SignsOnly,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "RouteWeighting", rename_all = "snake_case")]
pub(crate) enum RouteWeightingName {
    Uniform,
    Squared,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Solver", rename_all = "snake_case")]
pub(crate) enum SolverName {
    Rtn,
    Gptq,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ScaleRule", rename_all = "snake_case")]
pub(crate) enum ScaleRuleName {
    Minmax,
    Mse,
}

/// Whatever is written as its name and read from it.
pub(crate) mod name {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}
