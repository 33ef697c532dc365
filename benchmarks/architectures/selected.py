"""Which model types of `transformers` are used, and which were tried and are not.

Tried were all that have a head of their own, with what most of their variants said.
"""

_NAMES = """
afmoe aimv2 albert altclip apertus arcee aria_text audio-spectrogram-transformer audioflamingo3
audioflamingo3_encoder axk1 axk2 aya_vision bailing_hybrid bamba bart beam beit bert
bert-generation big_bird bigbird_pegasus biogpt bit bitnet blenderbot blenderbot-small blip
blip-2 bloom bros camembert canary canine chinese_clip clip clipseg codegen cohere cohere2
cohere2_moe cohere2_vision cohere_asr convbert convnext convnextv2 cosmos3_edge cosmos3_omni
cpmant ctrl cvt cwm data2vec-audio data2vec-text data2vec-vision deberta deberta-v2 deepseek_v2
deepseek_v3 deepseek_v32 deepseek_v4 deepseek_vl deit diffllama dinov2 dinov2_with_registers
dinov3_convnext dinov3_vit distilbert doge donut-swin dots3_note_text dpr dpt electra
embedding_gemma2_text encoder-decoder ernie ernie4_5 ernie4_5_moe eurobert evolla exaone4
exaone4_5 exaone_moe falcon falcon_h1 falcon_mamba flaubert flava flex_olmo flint florence2 fnet
focalnet fsmt funnel gemma gemma2 gemma3 gemma3_text gemma3n_text gemma4_audio gemma4_text
gemma4_unified_text git glm glm4 glm46v glm4_moe glm4_moe_lite glm4v glm4v_moe glm_moe_dsa
glm_ocr glmasr glmasr_encoder glmga glpn got_ocr2 gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox
gpt_neox_japanese gpt_oss gptj gradium_phonon_tts granite granite_swa granitemoe granitemoe_swa
granitemoehybrid granitemoeshared groupvit gte helium higgs_audio_v2 hrm_text hubert
hunyuan_v1_dense hunyuan_v1_moe hunyuan_vl hy_v3 hy_v4 hyperclovax hyperclovax_vision_v2 ibert
idefics2 idefics3 ijepa imagegpt inkling2_text inkling_text instructblip internlm3 internvl
iquestcoder jais2 jamba jetmoe jina_embeddings_v3 kimi_linear kolibri1 laguna lasr_ctc
lasr_encoder layoutlm layoutlmv3 led lfm2 lfm2_vl lfm3 lfm3_vl llama llama4_text llava
llava_next llava_next_video llava_onevision longformer longt5 luke m2m_100 mamba mamba2 marian
maskformer-swin mbart megatron-bert mellum metaclip_2 mimo_v2_flash minicpm3 minimax minimax_m2
minimax_m3_vl minimax_m3_vl_text ministral ministral3 mistral mistral4 mixtral mobilebert
mobilenet_v1 mobilenet_v2 mobilevitv2 modernbert modernbert-decoder modernvbert moonshine moshi
moss_transcribe_diarize_audio mpnet mpt mra mt5 muse_glimmer_text muse_spark_text mvp nanochat
nemotron nemotron3_5_asr nemotron_asr_streaming nemotron_asr_streaming_encoder nemotron_h neomme
nllb-moe nomic_bert nystromformer olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt
openai_privacy_filter opt ovis2 owlv2 owlvit paligemma parakeet_ctc parakeet_encoder
parakeet_rnnt parakeet_tdt patchtsmixer patchtst pegasus pegasus_x perceiver persimmon phi phi3
phi4_multimodal phimoe pixio pixtral plbart pocket_tts poolformer pp_chart2table pp_formulanet
prophetnet pvt pvt_v2 qianfan_ocr qwen2 qwen2_audio_encoder qwen2_moe qwen2_vl qwen3 qwen3_5
qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen3_vl qwen3_vl_moe radio
recurrent_gemma regnet rembert resnet rf_detr roberta roberta-prelayernorm roc_bert
roformer rwkv sam3 sam3_lite_text sam3_lite_text_text_model seamless_m4t seamless_m4t_v2
seed_oss segformer sew sew-d shieldgemma2 siglip siglip2 smollm3 smolvlm solar_open
speech-encoder-decoder speech_to_text splinter squeezebert stablelm starcoder2 swiftformer swin
swin2sr swinv2 switch_transformers t5 t5gemma t5gemma2 tapas timesformer tipsv2 trocr udop
ultrabert umt5 unispeech unispeech-sat vaultgemma video_llava videomae vilt vipllava
vision-encoder-decoder vision-text-dual-encoder visual_bert vit vit_mae vit_msn vitdet vivit
voxtral_encoder voxtral_realtime_encoder wav2vec2 wav2vec2-bert wav2vec2-conformer wavlm whisper
xclip xglm xlm xlm-roberta xlm-roberta-xl xlnet xlstm yolos yoso youtu zamba2 zaya
"""

SELECTED: tuple[str, ...] = tuple(_NAMES.split())

LEFT_OUT: tuple[tuple[str, str], ...] = (
    ("align", "RuntimeError: Expected 3D (unbatched) or 4D (batched) inpu"),
    ("aria", "ValueError: too many values to unpack (expected 4)"),
    ("autoformer", "needs 'past_time_features' and 'past_observed_mask"),
    ("bark", "too large: 14792290 parameters"),
    ("blt", "too large: 192403456 parameters"),
    ("bridgetower", "ValueError: embed_dim and num_heads must be greater than 0"),
    ("chameleon", "AttributeError: 'NoneType' object has no attribute 'get"),
    ("clap", "IndexError: Dimension out of range (expected to be in rang"),
    ("clvp", "RuntimeError: Given groups=1, weight of size [32, 8, 1], e"),
    ("cohere_compass", "KeyError: 'full_attention"),
    ("cohere_compass_text", "KeyError: 'full_attention"),
    ("conditional_detr", "needs timm"),
    ("d_fine", "IndexError: list index out of range"),
    ("dab-detr", "needs timm"),
    ("dac", "too large: 22999661 parameters"),
    ("dbrx", "AttributeError: 'DbrxAttentionConfig' object has no attrib"),
    ("decision_transformer", "AttributeError: 'NoneType' object has no attribute 'shape"),
    ("deepseek_ocr2", "TypeError: 'NoneType' object is not subscriptable"),
    ("deepseek_vl_hybrid", "TypeError: DeepseekVLHybridModel.get_image_features() miss"),
    ("deformable_detr", "needs timm"),
    ("deimv2", "ValueError: too many values to unpack (expected 4)"),
    ("depth_pro", "ValueError: `config.image_model_config.image_size=64` shou"),
    ("detr", "needs timm"),
    ("dia", "RuntimeError: shape '[2, 9, -1]' is invalid for input of s"),
    ("diffusion_gemma", "TypeError: empty(): argument 'size' (position 1) must be t"),
    ("dinat", "needs natten"),
    ("dots1", "TypeError: empty() takes 1 positional argument but 3 were"),
    ("dots3_note", "TypeError: Dots3NoteModel.get_image_features() missing 1 r"),
    ("edgetam", "needs timm"),
    ("edgetam_video", "too large: 27474866 parameters"),
    ("efficientloftr", "ValueError: hidden_size should be equal to the last value"),
    ("efficientnet", "RuntimeError: running_mean should contain 320 elements not"),
    ("embedding_gemma2", "ValueError: Image features were requested, but the model w"),
    ("emu3", "AttributeError: 'NoneType' object has no attribute 'get"),
    ("encodec", "too large: 14392930 parameters"),
    ("ernie4_5_vl_moe", "AttributeError: 'NoneType' object has no attribute 'device"),
    ("esm", "TypeError: ne() received an invalid combination of argumen"),
    ("esmc", "IndexError: index out of range in self"),
    ("fast_vlm", "needs timm"),
    ("fastspeech2_conformer_with_hifigan", "too large: 5477604 parameters"),
    ("fun_asr_nano", "ValueError: `adaptor_config.intermediate_size` (128) must"),
    ("fun_asr_nano_encoder", "RuntimeError: The size of tensor a (800) must match the si"),
    ("fuyu", "StopIteration"),
    ("gemma3n", "needs timm"),
    ("gemma3n_audio", "needs 'audio_mel' and 'audio_mel_mask"),
    ("gemma3n_vision", "needs timm"),
    ("gemma4", "TypeError: 'NoneType' object is not callable"),
    ("gemma4_assistant", "ValueError: hidden_size_per_layer_input must be 0, got 256"),
    ("gemma4_unified", "TypeError: 'NoneType' object is not callable"),
    ("gemma4_unified_assistant", "ValueError: The set of layer types producing a cache is di"),
    ("gemma4_vision", "needs 'pixel_position_ids"),
    ("glm5_next", "ZeroDivisionError: integer division or modulo by zero"),
    ("glm_image", "TypeError: 'NoneType' object is not subscriptable"),
    ("granite4_vision", "TypeError: object of type 'NoneType' has no len()"),
    ("granite_docling", "TypeError: GraniteDoclingModel.get_image_features() missin"),
    ("granite_speech", "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2"),
    ("granite_speech5_ctc", "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2"),
    ("granite_speech5_encoder", "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2"),
    ("granite_speech_plus", "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2"),
    ("grounding-dino", "IndexError: index out of range in self"),
    ("hgnet_v2", "ValueError: Make sure that the channel dimension of the pi"),
    ("hiera", "ValueError: num_query_pool (3) must be less than the numbe"),
    ("higgs_audio_v2_tokenizer", "needs torchaudio"),
    ("idefics", "TypeError: 'NoneType' object is not subscriptable"),
    ("informer", "needs 'past_time_features' and 'past_observed_mask"),
    ("inkling2", "TypeError: Inkling2Model.get_image_features() missing 1 re"),
    ("inkling_mm_model", "ValueError: not enough values to unpack (expected 5, got 4"),
    ("instructblipvideo", "AttributeError: 'bool' object has no attribute 'unsqueeze"),
    ("janus", "too large: 17890507 parameters"),
    ("kimi_k25", "AttributeError: 'NoneType' object has no attribute 'device"),
    ("kimi_k25_vision", "needs 'grid_thw"),
    ("kosmos-2", "ValueError: too many values to unpack (expected 4)"),
    ("kosmos-2.5", "too large: 707648 parameters"),
    ("kyutai_speech_to_text", "ValueError: in_channels must be divisible by groups"),
    ("layoutlmv2", "needs detectron2"),
    ("levit", "TypeError: LevitAttentionSubsample.__init__() missing 1 re"),
    ("lfm2_moe", "TypeError: 'NoneType' object is not subscriptable"),
    ("lightglue", "ValueError: LightGlue is not trainable, no labels should b"),
    ("lighton_ocr", "TypeError: LightOnOcrModel.get_image_features() missing 1"),
    ("lilt", "IndexError: index out of range in self"),
    ("llama4", "ValueError: too many values to unpack (expected 4)"),
    ("longcat_flash", "too large: 2331840 parameters"),
    ("lw_detr", "ValueError: too many values to unpack (expected 4)"),
    ("lxmert", "ValueError: `visual_feats` cannot be `None`"),
    ("markuplm", "IndexError: index out of range in self"),
    ("mask2former", "ValueError: num_channels (16) must be divisible by num_gro"),
    ("maskformer", "ValueError: out_features must be a subset of stage_names"),
    ("mgp-str", "too large: 5373553 parameters"),
    ("mimi", "ValueError: in_channels must be divisible by groups"),
    ("mimi_decoder", "ValueError: in_channels must be divisible by groups"),
    ("mimi_encoder", "too large: 11317856 parameters"),
    ("minicpm_ocr", "TypeError: MiniCPMOcrModel.get_image_features() missing 1"),
    ("minicpmv4_6", "TypeError: MiniCPMV4_6Model.get_image_features() missing 1"),
    ("minicpmv4_7", "TypeError: MiniCPMV4_7Model.get_image_features() missing 1"),
    ("mistral3", "TypeError: missing a required argument: 'image_sizes"),
    ("mistral_large4", "TypeError: missing a required argument: 'image_sizes"),
    ("mistral_large4_text", "RuntimeError: The size of tensor a (4) must match the size"),
    ("mllama", "ValueError: `aspect_ratio_ids` must be provided if `pixel_"),
    ("mm-grounding-dino", "IndexError: index out of range in self"),
    ("mobilevit", "IndexError: list index out of range"),
    ("molmo2", "TypeError: Molmo2Model.get_image_features() missing 2 requ"),
    ("moonshine_streaming", "AttributeError: 'MoonshineStreamingConfig' object has no a"),
    ("moss_transcribe_diarize", "TypeError: MossTranscribeDiarizeModel.get_audio_features()"),
    ("muse_glimmer", "TypeError: MuseGlimmerModel.get_image_features() missing 1"),
    ("muse_glimmer_assistant", "needs 'noise_embeds' and 'context_hidden_states"),
    ("muse_glimmer_vision", "needs 'grid_thw"),
    ("muse_spark", "TypeError: MuseSparkModel.get_image_features() missing 1 r"),
    ("muse_spark_audio", "ValueError: `input_values` length 800 is not a multiple of"),
    ("muse_spark_vision", "needs 'grid_thw"),
    ("musicflamingo", "TypeError: MusicFlamingoModel.get_audio_features() missing"),
    ("musicgen", "RuntimeError: shape '[-1, 4, 8]' is invalid for input of s"),
    ("musicgen_melody", "RuntimeError: shape '[-1, 4, 8]' is invalid for input of s"),
    ("nemo_speechlm", "ValueError: `chunk_right_context` (4) must be smaller than"),
    ("nemotron3_diarization", "ValueError: `chunk_right_context` (4) must be smaller than"),
    ("nemotron_h_omni", "TypeError: NemotronH_Omni_Reasoning_V3.get_image_features"),
    ("neucodec", "too large: 34527850 parameters"),
    ("omdet-turbo", "needs timm"),
    ("oneformer", "needs 'task_inputs"),
    ("paddleocr_vl", "ValueError: too many values to unpack (expected 5)"),
    ("pe_audio_video", "needs timm"),
    ("perception_lm", "needs timm"),
    ("pi0", "needs 'state"),
    ("pix2struct", "too large: 742336 parameters"),
    ("pocket_tts_audio_tokenizer", "ValueError: in_channels must be divisible by groups"),
    ("pocket_tts_audio_tokenizer_decoder", "ValueError: in_channels must be divisible by groups"),
    ("pocket_tts_audio_tokenizer_encoder", "too large: 2354016 parameters"),
    ("pop2piano", "ValueError: You cannot specify both input_ids and inputs_e"),
    ("pp_doclayout_v3", "IndexError: list index out of range"),
    ("pp_doclayout_v4", "IndexError: list index out of range"),
    ("pp_lcnet", "ValueError: block_configs must have 5 stages, but got 2"),
    ("pp_ocrv5_mobile_rec", "ValueError: block_configs must have 5 stages, but got 2"),
    ("pp_ocrv5_server_rec", "ValueError: Make sure that the channel dimension of the pi"),
    ("pp_ocrv6_medium_det", "TypeError: 'NoneType' object is not subscriptable"),
    ("pp_ocrv6_small_det", "IndexError: list index out of range"),
    ("pp_ocrv6_small_rec", "IndexError: list index out of range"),
    ("pp_ocrv6_tiny_rec", "IndexError: list index out of range"),
    ("qwen2_5_omni_thinker", "AttributeError: 'NoneType' object has no attribute 'device"),
    ("qwen2_5_vl", "AttributeError: 'NoneType' object has no attribute 'device"),
    ("qwen2_audio", "AttributeError: 'NoneType' object has no attribute 'to"),
    ("qwen3_asr", "ValueError: not enough values to unpack (expected 3, got 2"),
    ("qwen3_asr_encoder", "ValueError: not enough values to unpack (expected 3, got 2"),
    ("qwen3_omni_moe_thinker", "AttributeError: 'NoneType' object has no attribute 'device"),
    ("qwen4_exp", "TypeError: unsupported operand type(s) for //: 'NoneType"),
    ("qwen4_exp_text", "TypeError: unsupported operand type(s) for //: 'NoneType"),
    ("reformer", "another loss from the same seed"),
    ("rt_detr", "ValueError: too many values to unpack (expected 4)"),
    ("rt_detr_v2", "ValueError: too many values to unpack (expected 4)"),
    ("sam", "ValueError: too many values to unpack (expected 4)"),
    ("sam2", "ValueError: too many values to unpack (expected 4)"),
    ("sam2_video", "too large: 27415666 parameters"),
    ("sam3_tracker", "RuntimeError: Expected 3D (unbatched) or 4D (batched) inpu"),
    ("sam3_tracker_video", "too large: 330770 parameters"),
    ("sam3_video", "too large: 579880 parameters"),
    ("sam_hq", "ValueError: too many values to unpack (expected 4)"),
    ("sapiens2", "TypeError: 'NoneType' object is not subscriptable"),
    ("seggpt", "needs 'prompt_pixel_values' and 'prompt_masks"),
    ("speecht5", "IndexError: index out of range in self"),
    ("step3p7", "ValueError: too many values to unpack (expected 4)"),
    ("t5gemma2_encoder", "AttributeError: 'T5Gemma2TextConfig' object has no attribu"),
    ("table-transformer", "needs timm"),
    ("textnet", "RuntimeError: Expected 3D (unbatched) or 4D (batched) inpu"),
    ("time_series_transformer", "needs 'past_time_features' and 'past_observed_mask"),
    ("timesfm", "needs 'past_values_padding' and 'freq"),
    ("timesfm2_5", "ValueError: too many values to unpack (expected 2)"),
    ("timm_backbone", "needs timm"),
    ("timm_wrapper", "needs timm"),
    ("tipsv2_dpt", "ValueError: too many values to unpack (expected 4)"),
    ("tvp", "RuntimeError: The size of tensor a (2) must match the size"),
    ("ultravbert", "ValueError: not enough values to unpack (expected 5, got 4"),
    ("univnet", "too large: 9807809 parameters"),
    ("unlimited_ocr", "RuntimeError: Sizes of tensors must match except in dimens"),
    ("upernet", "IndexError: list index out of range"),
    ("uvdoc", "too large: 6355939 parameters"),
    ("vibevoice", "IndexError: list index out of range"),
    ("vibevoice_acoustic_tokenizer", "IndexError: list index out of range"),
    ("vibevoice_asr", "ValueError: `acoustic_tokenizer_chunk_size` must be a mult"),
    ("video_llama_3", "TypeError: VideoLlama3Model.get_image_features() missing 1"),
    ("videoprism", "needs 'pixel_values_videos"),
    ("videoprism_vision_model", "needs 'pixel_values_videos"),
    ("vits", "NotImplementedError: Training of VITS is not supported yet"),
    ("vjepa2", "needs 'pixel_values_videos"),
    ("voxtral", "TypeError: VoxtralModel.get_audio_features() missing 1 req"),
    ("voxtral_realtime", "ValueError: You must specify exactly one of input_features"),
    ("voxtral_realtime_text", "AttributeError: module transformers has no attribute Voxtr"),
    ("xcodec", "too large: 18280357 parameters"),
    ("xcodec2", "too large: 34486250 parameters"),
    ("xmod", "ValueError: Input language unknown. Please call `XmodPreTr"),
    ("zamba", "ValueError: There is an issue with your definition of `tie"),
)
