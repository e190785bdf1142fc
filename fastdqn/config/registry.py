"""Registry: the words that name parts, and the class or function `module:Name` of each.

A part of a user's own is named `module:Name` in place of a word. auto chooses by other options.
"""

WORDS: dict[str, dict[str, str]] = {
    "value": {
        "scalar": "fastdqn.learning.value:ScalarValue",
        "categorical": "fastdqn.learning.categorical:CategoricalValue",
        "quantile": "fastdqn.learning.quantile:QuantileValue",
        "implicit-quantile": "fastdqn.learning.implicit_quantile:ImplicitQuantileValue",
        "hl-gauss": "fastdqn.learning.hl_gauss:HLGaussValue",
    },
    "loss": {
        "mse": "fastdqn.learning.value:squared_error",
        "huber": "fastdqn.learning.value:huber",
    },
    "backup": {
        "auto": "",
        "max": "fastdqn.learning.bootstrap_targets:MaxBackup",
        "double": "fastdqn.learning.bootstrap_targets:DoubleBackup",
        "munchausen": "fastdqn.learning.munchausen:MunchausenBackup",
    },
    "optimizer": {
        "adam": "fastdqn.learning.adam:make_adam",
        "adamw": "fastdqn.learning.torch_optimizer:adamw",
        "radam": "fastdqn.learning.torch_optimizer:radam",
        "rmsprop": "fastdqn.learning.rmsprop:RMSProp",
    },
    "learning_rate_schedule": {
        "constant": "fastdqn.schedules:Constant",
        "linear": "fastdqn.schedules:linear_rate",
        "cosine": "fastdqn.schedules:Cosine",
        "piecewise": "fastdqn.schedules:Piecewise",
    },
    "sampler": {
        "auto": "",
        "uniform": "fastdqn.replay.uniform_sampler:UniformSampler",
        "prioritized": "fastdqn.replay.prioritized_sampler:PrioritizedSampler",
        "newest": "fastdqn.replay.newest_sampler:NewestSampler",
        "recent": "fastdqn.replay.recent_sampler:RecentSampler",
    },
    # The built-in torsos are made by the shape of observations.
    "torso": {"auto": "", "mlp": "", "nature": "", "data-efficient": "", "minatar": ""},
    "exploration": {
        "schedule": "fastdqn.schedules:decaying_epsilon",
        "ladder": "fastdqn.schedules:LadderEpsilon",
    },
}
# The value of an option whose part was passed from Python as an object.
CUSTOM = "custom"
