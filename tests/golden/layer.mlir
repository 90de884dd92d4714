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
  %1 = "treadle.reshape"(%arg0) {shape = array<i64: 8, 1, 6>} : (tensor<8x6xf32>) -> tensor<8x1x6xf32>
  %2 = "treadle.permute"(%0) {dims = array<i64: 1, 0>} : (tensor<6x3xf32>) -> tensor<3x6xf32>
  %3 = "treadle.reshape"(%2) {shape = array<i64: 1, 3, 6>} : (tensor<3x6xf32>) -> tensor<1x3x6xf32>
  %4 = "treadle.mul"(%1, %3) : (tensor<8x1x6xf32>, tensor<1x3x6xf32>) -> tensor<8x3x6xf32>
  %5 = "treadle.sum"(%4) {dims = array<i64: 2>, keepdim = false, dtype = f32} : (tensor<8x3x6xf32>) -> tensor<8x3xf32>
  %6 = "treadle.add"(%5, %arg2) : (tensor<8x3xf32>, tensor<3xf32>) -> tensor<8x3xf32>
  %7 = "treadle.relu"(%6) : (tensor<8x3xf32>) -> tensor<8x3xf32>
  %8 = "treadle.constant"() {value = 0 : i64} : () -> tensor<i64, "weak">
  %9 = "treadle.full"(%8) {shape = array<i64>, dtype = f32, device = "cpu"} : (tensor<i64, "weak">) -> tensor<f32>
  %10 = "treadle.gt"(%7, %9) : (tensor<8x3xf32>, tensor<f32>) -> tensor<8x3xi1>
  %11 = "treadle.constant"() {value = 0.0 : f64} : () -> tensor<f64, "weak">
  %12 = "treadle.full"(%11) {shape = array<i64>, dtype = f32, device = "cpu"} : (tensor<f64, "weak">) -> tensor<f32>
  %13 = "treadle.where"(%10, %arg3, %12) : (tensor<8x3xi1>, tensor<8x3xf32>, tensor<f32>) -> tensor<8x3xf32>
  %14 = "treadle.permute"(%13) {dims = array<i64: 1, 0>} : (tensor<8x3xf32>) -> tensor<3x8xf32>
  %15 = "treadle.reshape"(%14) {shape = array<i64: 3, 1, 8>} : (tensor<3x8xf32>) -> tensor<3x1x8xf32>
  %16 = "treadle.permute"(%arg0) {dims = array<i64: 1, 0>} : (tensor<8x6xf32>) -> tensor<6x8xf32>
  %17 = "treadle.reshape"(%16) {shape = array<i64: 1, 6, 8>} : (tensor<6x8xf32>) -> tensor<1x6x8xf32>
  %18 = "treadle.mul"(%15, %17) : (tensor<3x1x8xf32>, tensor<1x6x8xf32>) -> tensor<3x6x8xf32>
  %19 = "treadle.sum"(%18) {dims = array<i64: 2>, keepdim = false, dtype = f32} : (tensor<3x6x8xf32>) -> tensor<3x6xf32>
  %20 = "treadle.sum"(%13) {dims = array<i64: 0>, keepdim = false, dtype = unit} : (tensor<8x3xf32>) -> tensor<3xf32>
  "func.return"(%7, %19, %20) : (tensor<8x3xf32>, tensor<3x6xf32>, tensor<3xf32>) -> ()
}) : () -> ()
// after canonicalize
"func.func"() <{function_type = (tensor<8x6xf32>, tensor<3x6xf32>, tensor<3xf32>, tensor<8x3xf32>) -> (tensor<8x3xf32>, tensor<3x6xf32>, tensor<3xf32>), sym_name = "layer_vjp"}> ({
^bb0(%arg0: tensor<8x6xf32>, %arg1: tensor<3x6xf32>, %arg2: tensor<3xf32>, %arg3: tensor<8x3xf32>):
  %0 = "treadle.reshape"(%arg0) {shape = array<i64: 8, 1, 6>} : (tensor<8x6xf32>) -> tensor<8x1x6xf32>
  %1 = "treadle.reshape"(%arg1) {shape = array<i64: 1, 3, 6>} : (tensor<3x6xf32>) -> tensor<1x3x6xf32>
  %2 = "treadle.mul"(%0, %1) : (tensor<8x1x6xf32>, tensor<1x3x6xf32>) -> tensor<8x3x6xf32>
  %3 = "treadle.sum"(%2) {dims = array<i64: 2>, keepdim = false, dtype = f32} : (tensor<8x3x6xf32>) -> tensor<8x3xf32>
  %4 = "treadle.add"(%3, %arg2) : (tensor<8x3xf32>, tensor<3xf32>) -> tensor<8x3xf32>
  %5 = "treadle.relu"(%4) : (tensor<8x3xf32>) -> tensor<8x3xf32>
  %6 = "treadle.constant"() {value = 0 : i64} : () -> tensor<i64, "weak">
  %7 = "treadle.full"(%6) {shape = array<i64>, dtype = f32, device = "cpu"} : (tensor<i64, "weak">) -> tensor<f32>
  %8 = "treadle.gt"(%5, %7) : (tensor<8x3xf32>, tensor<f32>) -> tensor<8x3xi1>
  %9 = "treadle.constant"() {value = 0.0 : f64} : () -> tensor<f64, "weak">
  %10 = "treadle.full"(%9) {shape = array<i64>, dtype = f32, device = "cpu"} : (tensor<f64, "weak">) -> tensor<f32>
  %11 = "treadle.where"(%8, %arg3, %10) : (tensor<8x3xi1>, tensor<8x3xf32>, tensor<f32>) -> tensor<8x3xf32>
  %12 = "treadle.permute"(%11) {dims = array<i64: 1, 0>} : (tensor<8x3xf32>) -> tensor<3x8xf32>
  %13 = "treadle.reshape"(%12) {shape = array<i64: 3, 1, 8>} : (tensor<3x8xf32>) -> tensor<3x1x8xf32>
  %14 = "treadle.permute"(%arg0) {dims = array<i64: 1, 0>} : (tensor<8x6xf32>) -> tensor<6x8xf32>
  %15 = "treadle.reshape"(%14) {shape = array<i64: 1, 6, 8>} : (tensor<6x8xf32>) -> tensor<1x6x8xf32>
  %16 = "treadle.mul"(%13, %15) : (tensor<3x1x8xf32>, tensor<1x6x8xf32>) -> tensor<3x6x8xf32>
  %17 = "treadle.sum"(%16) {dims = array<i64: 2>, keepdim = false, dtype = f32} : (tensor<3x6x8xf32>) -> tensor<3x6xf32>
  %18 = "treadle.sum"(%11) {dims = array<i64: 0>, keepdim = false, dtype = unit} : (tensor<8x3xf32>) -> tensor<3xf32>
  "func.return"(%5, %17, %18) : (tensor<8x3xf32>, tensor<3x6xf32>, tensor<3xf32>) -> ()
}) : () -> ()
// step 0: KernelStep
// step 1: KernelStep
// step 2: KernelStep
kernel @kernel(p0: parallel, p1: parallel, r2: reduce) {
  memory m0 : float32 in [p0*s + r2]
  memory m1 : float32 in [p1*s + r2]
  memory m2 : float32 in [p1]
  memory m3 : float32 in [p0*s + p1]
  memory m4 : float32 out [p0*s + p1]
  memory m5 : float32 out [p0*s + p1]
  %0 = load m0 : float32
  %1 = load m1 : float32
  %2 = mul %0, %1 : float32
  %3 = reduce %2, sum : float32
  %4 = load m2 : float32
  %5 = add %3, %4 : float32
  %6 = relu %5 : float32
  %7 = const 0.0 : float32
  %8 = gt %6, %7 : bool
  %9 = load m3 : float32
  %10 = select %8, %9, %7 : float32
  store %10 -> m4
  store %6 -> m5
}
kernel @kernel(p0: parallel, p1: parallel, r2: reduce) {
  memory m0 : float32 in [p0 + r2*s]
  memory m1 : float32 in [p1 + r2*s]
  memory m2 : float32 out [p0*s + p1]
  %0 = load m0 : float32
  %1 = load m1 : float32
  %2 = mul %0, %1 : float32
  %3 = reduce %2, sum : float32
  store %3 -> m2
}
kernel @kernel(p0: parallel, r1: reduce) {
  memory m0 : float32 in [p0 + r1*s]
  memory m1 : float32 out [p0]
  %0 = load m0 : float32
  %1 = reduce %0, sum : float32
  store %1 -> m1
}
