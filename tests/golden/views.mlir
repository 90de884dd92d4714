// recorded
"func.func"() <{function_type = (tensor<2x3x4xf32>) -> tensor<2x4xf32>, sym_name = "views"}> ({
^bb0(%arg0: tensor<2x3x4xf32>):
  %0 = "treadle.slice"(%arg0) {starts = array<i64: 0, 1, 0>, stops = array<i64: 2, 3, 4>, steps = array<i64: 1, 1, 2>} : (tensor<2x3x4xf32>) -> tensor<2x2x2xf32>
  %1 = "treadle.permute"(%0) {dims = array<i64: 2, 0, 1>} : (tensor<2x2x2xf32>) -> tensor<2x2x2xf32>
  %2 = "treadle.constant"() {value = 1 : i64} : () -> tensor<i64, "weak">
  %3 = "treadle.add"(%1, %2) : (tensor<2x2x2xf32>, tensor<i64, "weak">) -> tensor<2x2x2xf32>
  %4 = "treadle.neg"(%3) : (tensor<2x2x2xf32>) -> tensor<2x2x2xf32>
  %5 = "treadle.neg"(%4) : (tensor<2x2x2xf32>) -> tensor<2x2x2xf32>
  %6 = "treadle.reshape"(%5) {shape = array<i64: 2, 4>} : (tensor<2x2x2xf32>) -> tensor<2x4xf32>
  %7 = "treadle.cast"(%6) {dtype = f32} : (tensor<2x4xf32>) -> tensor<2x4xf32>
  %8 = "treadle.mul"(%6, %7) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
  "func.return"(%8) : (tensor<2x4xf32>) -> ()
}) : () -> ()
// after promote
"func.func"() <{function_type = (tensor<2x3x4xf32>) -> tensor<2x4xf32>, sym_name = "views"}> ({
^bb0(%arg0: tensor<2x3x4xf32>):
  %0 = "treadle.slice"(%arg0) {starts = array<i64: 0, 1, 0>, stops = array<i64: 2, 3, 4>, steps = array<i64: 1, 1, 2>} : (tensor<2x3x4xf32>) -> tensor<2x2x2xf32>
  %1 = "treadle.permute"(%0) {dims = array<i64: 2, 0, 1>} : (tensor<2x2x2xf32>) -> tensor<2x2x2xf32>
  %2 = "treadle.constant"() {value = 1 : i64} : () -> tensor<i64, "weak">
  %3 = "treadle.full"(%2) {shape = array<i64>, dtype = f32, device = "cpu"} : (tensor<i64, "weak">) -> tensor<f32>
  %4 = "treadle.add"(%1, %3) : (tensor<2x2x2xf32>, tensor<f32>) -> tensor<2x2x2xf32>
  %5 = "treadle.neg"(%4) : (tensor<2x2x2xf32>) -> tensor<2x2x2xf32>
  %6 = "treadle.neg"(%5) : (tensor<2x2x2xf32>) -> tensor<2x2x2xf32>
  %7 = "treadle.reshape"(%6) {shape = array<i64: 2, 4>} : (tensor<2x2x2xf32>) -> tensor<2x4xf32>
  %8 = "treadle.cast"(%7) {dtype = f32} : (tensor<2x4xf32>) -> tensor<2x4xf32>
  %9 = "treadle.mul"(%7, %8) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
  "func.return"(%9) : (tensor<2x4xf32>) -> ()
}) : () -> ()
// after canonicalize
"func.func"() <{function_type = (tensor<2x3x4xf32>) -> tensor<2x4xf32>, sym_name = "views"}> ({
^bb0(%arg0: tensor<2x3x4xf32>):
  %0 = "treadle.slice"(%arg0) {starts = array<i64: 0, 1, 0>, stops = array<i64: 2, 3, 4>, steps = array<i64: 1, 1, 2>} : (tensor<2x3x4xf32>) -> tensor<2x2x2xf32>
  %1 = "treadle.permute"(%0) {dims = array<i64: 2, 0, 1>} : (tensor<2x2x2xf32>) -> tensor<2x2x2xf32>
  %2 = "treadle.constant"() {value = 1 : i64} : () -> tensor<i64, "weak">
  %3 = "treadle.full"(%2) {shape = array<i64>, dtype = f32, device = "cpu"} : (tensor<i64, "weak">) -> tensor<f32>
  %4 = "treadle.add"(%1, %3) : (tensor<2x2x2xf32>, tensor<f32>) -> tensor<2x2x2xf32>
  %5 = "treadle.reshape"(%4) {shape = array<i64: 2, 4>} : (tensor<2x2x2xf32>) -> tensor<2x4xf32>
  %6 = "treadle.mul"(%5, %5) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
  "func.return"(%6) : (tensor<2x4xf32>) -> ()
}) : () -> ()
// step 0: KernelStep
kernel @kernel(p0: parallel, p1: parallel, p2: parallel) {
  memory m0 : float32 in [p0*2 + p1*s + p2*s]
  memory m1 : float32 out [p0*s + p1*s + p2]
  %0 = const 1.0 : float32
  %1 = load m0 : float32
  %2 = add %0, %1 : float32
  %3 = mul %2, %2 : float32
  store %3 -> m1
}
