// How teams prepare a row's Hadamard block of the input.
//
// needs      what linear/activations_… declare; `scales`, in workgroup memory, of each job

//!use linear/activation

// A lane's part of a row and block, and the scales of these channels.
struct Job {
    asked: Asked,
    scale: vec4<f32>,
}

// Row `row` and block `block` of a place's input, whose scales are at `suh`: zeros if there is no such row, or no such block.
fn job_of(place: Place, suh: u32, row: u32, block: u32, has_block: bool, lane: u32) -> Job {
    // Inputs of one tile that meet the same eight steps of walks.
    let channel = 128u * block + 16u * (lane >> 2u) + 2u * (lane & 3u);
    var job: Job;
    if row < ROWS && has_block && place.row + row < place.end {
        job.asked = ask(place.x_row + row, channel);
        let scale = suh + channel / 2u;
        job.scale = halves(scale, scale + 4u);
    }
    return job;
}

// All lanes must call.
fn prepare_job(number: u32, job: Job, at: u32) {
    let v = activation(job.asked) * job.scale;
    // Rotated, they add up to the first one.
    let scale = prepare(number, rotate(v, at), v.x * SUM, at);
    if (at & 31u) == 0u {
        scales[number] = scale;
    }
}
