// recorded
"func.func"() <{function_type = (tensor<4x10xf32>, tensor<f64, "weak">) -> tensor<4x10xf32>, sym_name = "softmax"}> ({
^bb0(%arg0: tensor<4x10xf32>, %arg1: tensor<f64, "weak">):
  %0 = "treadle.mul"(%arg0, %arg1) : (tensor<4x10xf32>, tensor<f64, "weak">) -> tensor<4x10xf32>
  %1 = "treadle.softmax"(%0) {dim = 1 : i64} : (tensor<4x10xf32>) -> tensor<4x10xf32>
  "func.return"(%1) : (tensor<4x10xf32>) -> ()
}) : () -> ()
// after decompose
"func.func"() <{function_type = (tensor<4x10xf32>, tensor<f64, "weak">) -> tensor<4x10xf32>, sym_name = "softmax"}> ({
^bb0(%arg0: tensor<4x10xf32>, %arg1: tensor<f64, "weak">):
  %0 = "treadle.mul"(%arg0, %arg1) : (tensor<4x10xf32>, tensor<f64, "weak">) -> tensor<4x10xf32>
  %1 = "treadle.amax"(%0) {dims = array<i64: 1>, keepdim = true} : (tensor<4x10xf32>) -> tensor<4x1xf32>
  %2 = "treadle.sub"(%0, %1) : (tensor<4x10xf32>, tensor<4x1xf32>) -> tensor<4x10xf32>
  %3 = "treadle.exp"(%2) : (tensor<4x10xf32>) -> tensor<4x10xf32>
  %4 = "treadle.sum"(%3) {dims = array<i64: 1>, keepdim = true, dtype = unit} : (tensor<4x10xf32>) -> tensor<4x1xf32>
  %5 = "treadle.div"(%3, %4) : (tensor<4x10xf32>, tensor<4x1xf32>) -> tensor<4x10xf32>
  "func.return"(%5) : (tensor<4x10xf32>) -> ()
}) : () -> ()
// after promote
"func.func"() <{function_type = (tensor<4x10xf32>, tensor<f64, "weak">) -> tensor<4x10xf32>, sym_name = "softmax"}> ({
^bb0(%arg0: tensor<4x10xf32>, %arg1: tensor<f64, "weak">):
  %0 = "treadle.full"(%arg1) {shape = array<i64>, dtype = f32, device = "cpu"} : (tensor<f64, "weak">) -> tensor<f32>
  %1 = "treadle.mul"(%arg0, %0) : (tensor<4x10xf32>, tensor<f32>) -> tensor<4x10xf32>
  %2 = "treadle.amax"(%1) {dims = array<i64: 1>, keepdim = true} : (tensor<4x10xf32>) -> tensor<4x1xf32>
  %3 = "treadle.sub"(%1, %2) : (tensor<4x10xf32>, tensor<4x1xf32>) -> tensor<4x10xf32>
  %4 = "treadle.exp"(%3) : (tensor<4x10xf32>) -> tensor<4x10xf32>
  %5 = "treadle.sum"(%4) {dims = array<i64: 1>, keepdim = true, dtype = unit} : (tensor<4x10xf32>) -> tensor<4x1xf32>
  %6 = "treadle.div"(%4, %5) : (tensor<4x10xf32>, tensor<4x1xf32>) -> tensor<4x10xf32>
  "func.return"(%6) : (tensor<4x10xf32>) -> ()
}) : () -> ()
// step 0: KernelStep
kernel @kernel(p0: parallel, r1: reduce) {
  memory m0 : float32 in [p0*s + r1]
  memory m1 : float32 out [p0*s + r1]
  %0 = load m0 : float32
  %1 = scalar 0 : float32
  %2 = mul %0, %1 : float32
  %3 = reduce %2, amax : float32
  %4 = sub %2, %3 : float32
  %5 = exp %4 : float32
  %6 = reduce %5, sum : float32
  %7 = div %5, %6 : float32
  store %7 -> m1
}
