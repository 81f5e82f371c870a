//! Serialised forms of settings whose crates know nothing of serde.

use serde::{Deserialize, Serialize};
use treillage_backend::RouteWeighting;
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

/// A codebook by its name.
pub(crate) mod codebook {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use treillage_trellis::Codebook;

    pub(crate) fn serialize<S: Serializer>(
        codebook: &Codebook,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(codebook.name())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Codebook, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}
