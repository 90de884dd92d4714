// recorded
"func.func"() <{function_type = (tensor<8x6xf32>, tensor<3x6xf32>, tensor<3xf32>, tensor<8x3xf32>) -> (tensor<8x3xf32>, tensor<3x6xf32>, tensor<3xf32>), sym_name = "layer_vjp"}> ({
^bb0(%arg0: tensor<8x6xf32>, %arg1: tensor<3x6xf32>, %arg2: tensor<3xf32>, %arg3: tensor<8x3xf32>):
  %0 = "treadle.linear_bias"(%arg0, %arg1, %arg2) : (tensor<8x6xf32>, tensor<3x6xf32>, tensor<3xf32>) -> tensor<8x3xf32>
  %1 = "treadle.relu"(%0) : (tensor<8x3xf32>) -> tensor<8x3xf32>
  %2 = "treadle.constant"() {value = 0 : i64} : () -> tensor<i64, "weak">
  %3 = "treadle.gt"(%1, %2) : (tensor<8x3xf32>, tensor<i64, "weak">) -> tensor<8x3xi1>
  %4 = "treadle.constant"() {value = 0.0 : f64} : () -> tensor<f64, "weak">
  %5 = "treadle.where"(%3, %arg3, %4) : (tensor<8x3xi1>, tensor<8x3xf32>, tensor<f64, "weak">) -> tensor<8x3xf32>
  %6 = "treadle.permute"(%5) {dims = array<i64: 1, 0>} : (tensor<8x3xf32>) -> tensor<3x8xf32>
  %7 = "treadle.matmul"(%6, %arg0) : (tensor<3x8xf32>, tensor<8x6xf32>) -> tensor<3x6xf32>
  %8 = "treadle.sum"(%5) {dims = array<i64: 0>, keepdim = false, dtype = unit} : (tensor<8x3xf32>) -> tensor<3xf32>
  "func.return"(%1, %7, %8) : (tensor<8x3xf32>, tensor<3x6xf32>, tensor<3xf32>) -> ()
}) : () -> ()
// after decompose
"func.func"() <{function_type = (tensor<8x6xf32>, tensor<3x6xf32>, tensor<3xf32>, tensor<8x3xf32>) -> (tensor<8x3xf32>, tensor<3x6xf32>, tensor<3xf32>), sym_name = "layer_vjp"}> ({
^bb0(%arg0: tensor<8x6xf32>, %arg1: tensor<3x6xf32>, %arg2: tensor<3xf32>, %arg3: tensor<8x3xf32>):
  %0 = "treadle.permute"(%arg1) {dims = array<i64: 1, 0>} : (tensor<3x6xf32>) -> tensor<6x3xf32>
  %1 = "treadle.matmul"(%arg0, %0) : (tensor<8x6xf32>, tensor<6x3xf32>) -> tensor<8x3xf32>
  %2 = "treadle.add"(%1, %arg2) : (tensor<8x3xf32>, tensor<3xf32>) -> tensor<8x3xf32>
  %3 = "treadle.relu"(%2) : (tensor<8x3xf32>) -> tensor<8x3xf32>
  %4 = "treadle.constant"() {value = 0 : i64} : () -> tensor<i64, "weak">
  %5 = "treadle.gt"(%3, %4) : (tensor<8x3xf32>, tensor<i64, "weak">) -> tensor<8x3xi1>
  %6 = "treadle.constant"() {value = 0.0 : f64} : () -> tensor<f64, "weak">
  %7 = "treadle.where"(%5, %arg3, %6) : (tensor<8x3xi1>, tensor<8x3xf32>, tensor<f64, "weak">) -> tensor<8x3xf32>
  %8 = "treadle.permute"(%7) {dims = array<i64: 1, 0>} : (tensor<8x3xf32>) -> tensor<3x8xf32>
  %9 = "treadle.matmul"(%8, %arg0) : (tensor<3x8xf32>, tensor<8x6xf32>) -> tensor<3x6xf32>
  %10 = "treadle.sum"(%7) {dims = array<i64: 0>, keepdim = false, dtype = unit} : (tensor<8x3xf32>) -> tensor<3xf32>
  "func.return"(%3, %9, %10) : (tensor<8x3xf32>, tensor<3x6xf32>, tensor<3xf32>) -> ()
}) : () -> ()
// after promote
"func.func"() <{function_type = (tensor<8x6xf32>, tensor<3x6xf32>, tensor<3xf32>, tensor<8x3xf32>) -> (tensor<8x3xf32>, tensor<3x6xf32>, tensor<3xf32>), sym_name = "layer_vjp"}> ({
^bb0(%arg0: tensor<8x6xf32>, %arg1: tensor<3x6xf32>, %arg2: tensor<3xf32>, %arg3: tensor<8x3xf32>):
  %0 = "treadle.permute"(%arg1) {dims = array<i64: 1, 0>} : (tensor<3x6xf32>) -> tensor<6x3xf32>
  %1 = "treadle.matmul"(%arg0, %0) : (tensor<8x6xf32>, tensor<6x3xf32>) -> tensor<8x3xf32>
  %2 = "treadle.add"(%1, %arg2) : (tensor<8x3xf32>, tensor<3xf32>) -> tensor<8x3xf32>
  %3 = "treadle.relu"(%2) : (tensor<8x3xf32>) -> tensor<8x3xf32>
  %4 = "treadle.constant"() {value = 0 : i64} : () -> tensor<i64, "weak">
  %5 = "treadle.full"(%4) {shape = array<i64>, dtype = f32, device = "cpu"} : (tensor<i64, "weak">) -> tensor<f32>
  %6 = "treadle.gt"(%3, %5) : (tensor<8x3xf32>, tensor<f32>) -> tensor<8x3xi1>
  %7 = "treadle.constant"() {value = 0.0 : f64} : () -> tensor<f64, "weak">
  %8 = "treadle.full"(%7) {shape = array<i64>, dtype = f32, device = "cpu"} : (tensor<f64, "weak">) -> tensor<f32>
  %9 = "treadle.where"(%6, %arg3, %8) : (tensor<8x3xi1>, tensor<8x3xf32>, tensor<f32>) -> tensor<8x3xf32>
  %10 = "treadle.permute"(%9) {dims = array<i64: 1, 0>} : (tensor<8x3xf32>) -> tensor<3x8xf32>
  %11 = "treadle.matmul"(%10, %arg0) : (tensor<3x8xf32>, tensor<8x6xf32>) -> tensor<3x6xf32>
  %12 = "treadle.sum"(%9) {dims = array<i64: 0>, keepdim = false, dtype = unit} : (tensor<8x3xf32>) -> tensor<3xf32>
  "func.return"(%3, %11, %12) : (tensor<8x3xf32>, tensor<3x6xf32>, tensor<3xf32>) -> ()
}) : () -> ()
// step 0: GemmStep
// step 1: GemmStep
// step 2: KernelStep
kernel @kernel(p0: parallel, r1: reduce) {
  memory m0 : float32 in [p0 + r1*s]
  memory m1 : float32 out [p0]
  %0 = load m0 : float32
  %1 = reduce %0, sum : float32
  store %1 -> m1
}
kernel @kernel(p0: parallel, p1: parallel) {
  memory m0 : float32 in [p1]
  memory m1 : float32 in [p0*s + p1]
  memory m2 : float32 in [p0*s + p1]
  memory m3 : float32 out [p0*s + p1]
  memory m4 : float32 out [p0*s + p1]
  %0 = load m0 : float32
  %1 = load m1 : float32
  %2 = add %0, %1 : float32
  %3 = relu %2 : float32
  %4 = const 0.0 : float32
  %5 = gt %3, %4 : bool
  %6 = load m2 : float32
  %7 = select %5, %6, %4 : float32
  store %3 -> m3
  store %7 -> m4
}
