// Integer codes from 0 to `top`, standing for what is left when `zero` is taken off: treillage_gptq::int.

fn round_to(x: f32, zero: f32, top: f32) -> f32 {
    return round(clamp(x, -zero, top - zero));
}

fn code_of(value: f32, zero: f32) -> u32 {
    return u32(value + zero);
}
