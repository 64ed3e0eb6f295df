#![no_main]
//! See `house::fuzz::policies`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = house::fuzz::policies(data);
});
