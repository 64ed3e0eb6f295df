#![no_main]
//! See `house::fuzz::token`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = house::fuzz::token(data);
});
