// A vector times 64 columns of a matrix in f16, `[inputs, 4 quads]`: lanes hold four columns each and share the inputs. The first 16
// lanes get the result, of columns 64·block + 4·lane.... All lanes must call.
//
// The user names `input` (i), a value of the vector, and `matrix` (at), four values of all matrices.
//
// constants  WG: workgroup size, a power of two, at least 16

var<workgroup> products: array<vec4<f32>, {{WG}}>;

fn head_product(start: u32, inputs: u32, quads: u32, block: u32, lane: u32) -> vec4<f32> {
    var sum = vec4(0.0);
    for (var i = lane / 16u; i < inputs; i += {{WG}}u / 16u) {
        let words = matrix(start + i * quads + 16u * block + lane % 16u);
        sum += input(i) * vec4(unpack2x16float(words.x), unpack2x16float(words.y));
    }
    products[lane] = sum;
    workgroupBarrier();
    for (var half = {{WG}}u / 2u; half >= 16u; half /= 2u) {
        if lane < half {
            products[lane] += products[lane + half];
        }
        workgroupBarrier();
    }
    return products[lane % 16u];
}
